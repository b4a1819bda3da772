"""The committed data: nothing that is held out is in training."""

import hashlib
import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gcl.config.benchmarks import Benchmark
from gcl.prepare.benchmarks.clipart9 import read_clipart9
from gcl.prepare.pairs.pictures import pictures
from openclipart import build, subject_of


@pytest.fixture(scope="module")
def rows(root):
    return pq.read_table(root / "data/openclipart/pictures.parquet").to_pylist()


def held_out(rows):
    return [r for r in rows if r["split"] != "train"]


def test_the_file_is_the_one_the_config_names(root, project):
    (file,) = project.datasets["openclipart"].files
    data = (root / "data/openclipart" / file.path).read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (file.sha256, file.bytes)


def test_no_held_out_title_or_subject_is_in_training(rows):
    for key in ("title", "subject"):
        trained = {r[key].casefold() for r in rows if r["split"] == "train"}
        assert not [r[key] for r in held_out(rows) if r[key].casefold() in trained]
    splits = {r["subject"]: set() for r in rows}
    for r in rows:
        splits[r["subject"]].add(r["split"])
    assert {len(s) for s in splits.values()} == {1}


def test_no_source_file_is_in_two_rows(rows):
    assert max(Counter(s for r in rows for s in r["sources"]).values()) == 1


def test_no_near_copy_of_a_held_out_picture_is_in_training_or_another_subject(rows):
    # From the committed WebP, not from the builder's own thumbnails; compression adds a little.
    small = [Image.open(io.BytesIO(r["image"])).convert("RGB").resize((16, 16), Image.Resampling.BOX) for r in rows]
    flat = np.stack([np.asarray(s, np.float64).ravel() / 255 for s in small])
    square = (flat**2).sum(1)
    subjects = np.array([r["subject"] for r in rows])
    for i, r in enumerate(rows):
        if r["split"] != "train":
            distance = np.sqrt(np.maximum(0, square + square[i] - 2 * flat @ flat[i]) / flat.shape[1])
            near = (distance < 0.019) & (subjects != r["subject"])
            assert not near.any(), (r["title"], [rows[j]["title"] for j in np.flatnonzero(near)])


def test_every_held_out_subject_has_different_pictures_with_text(rows):
    for split, count in (("test", 180), ("validation", 55)):
        sizes = Counter(r["subject"] for r in rows if r["split"] == split)
        assert len(sizes) == count
        assert 2 <= min(sizes.values()) <= max(sizes.values()) <= 8
    assert all(r["keywords"] or r["description"] for r in held_out(rows))


def test_no_address_is_redistributed(rows):
    assert not [r for r in rows if "@" in str({k: v for k, v in r.items() if k != "image"})]


def test_training_pairs_are_the_training_split(root, rows):
    pairs = list(pictures(root / "data/openclipart"))
    assert {p.name for p in pairs} == {r["picture_id"] for r in rows if r["split"] == "train"}
    assert all(p.texts[0] and len(set(p.texts)) == len(p.texts) for p in pairs)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_clipart9_asks_for_the_other_pictures_of_a_subject(root, rows, split):
    folder = root / "data/openclipart"
    row = Benchmark(
        dataset="d", reader="clipart9", split=split, title="t", measures=["Success@1"], headline="Success@1"
    )
    tables, tasks, qrels, *_ = read_clipart9(folder, folder, row)
    by_image = {f"{root / 'data/openclipart/pictures.parquet'}::{r['picture_id']}": r for r in rows}
    assert [t.name for t in tasks] == ["i_i", "i_t", "i_it", "t_i", "t_t", "t_it", "it_i", "it_t", "it_it"]
    queries = {i.item_id: i for i in tables["query_image"]}
    candidates = {i.item_id: i for i in tables["pool_image"]}
    found = Counter()
    for qrel in qrels:
        if qrel.task == "i_i":
            (query,), (candidate,) = queries[qrel.query_id].images, candidates[qrel.candidate_id].images
            assert query != candidate
            assert by_image[query]["subject"] == by_image[candidate]["subject"]
            found[qrel.query_id] += 1
    sizes = Counter(r["subject"] for r in rows if r["split"] == split)
    assert sorted(found.values()) == sorted(n - 1 for n in sizes.values())
    asked = {i for name in tables if name.startswith("query") for x in tables[name] for i in x.images}
    assert not asked & {i for x in tables["pool_image"] for i in x.images}


@pytest.mark.parametrize(
    ("title", "subject"),
    [("Violin (B and W)", "violin"), ("pill-button-blue", "pill button"), ("Rana03", "rana"), ("The Red 2", "")],
)
def test_a_subject_is_a_title_without_its_variant(title, subject):
    assert subject_of(title) == subject


@pytest.mark.slow
def test_the_builder_reproduces_the_committed_file(root, tmp_path):
    folder = os.environ.get("OPENCLIPART_DEBS")
    if not folder:
        pytest.skip("set OPENCLIPART_DEBS to a folder with openclipart-png_*.deb and openclipart-svg_*.deb")
    (png,), (svg,) = Path(folder).glob("openclipart-png_*.deb"), Path(folder).glob("openclipart-svg_*.deb")
    build(png, svg, tmp_path / "pictures.parquet")
    for name in ("pictures.parquet", "rejects.csv"):
        assert (tmp_path / name).read_bytes() == (root / "data/openclipart" / name).read_bytes()


def test_the_builder_refuses_another_package(tmp_path):
    (tmp_path / "x.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(ValueError, match=r"x\.deb has sha256 .*openclipart-png 1:0.18"):
        build(tmp_path / "x.deb", tmp_path / "x.deb", tmp_path / "out.parquet")
