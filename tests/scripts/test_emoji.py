"""What emoji9 is made of, and that the committed pictures are what the script writes."""

import hashlib
import shutil
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest

import emoji
from gcl.common.errors import UserError
from gcl.prepare.benchmarks import reader_of
from gcl.prepare.prepare import with_facts
from support.workflow import ROOT

PICTURES = ROOT / "data/emoji/pictures.parquet"


@pytest.fixture(scope="module")
def rows():
    return pq.read_table(PICTURES).to_pylist()


def test_a_family_is_in_one_split_and_a_subject_has_two_drawings(rows):
    splits, drawings = {}, {}
    for row in rows:
        splits.setdefault(row["family"], set()).add(row["split"])
        drawings.setdefault(row["subject"], []).append(row["picture_id"].rpartition("-")[2])
    assert all(len(found) == 1 for found in splits.values())
    assert all(found == ["noto", "twemoji"] for found in drawings.values())
    counts = {split: sum(row["split"] == split for row in rows) // 2 for split in ("test", "validation", "train")}
    assert counts == {"test": 600, "validation": 200, "train": 305}


def test_no_held_out_emoji_looks_like_one_of_another_split(rows):
    for vendor in ("noto", "twemoji"):
        own = [row for row in rows if row["picture_id"].endswith(vendor)]
        pictures = np.stack([emoji.thumbnail(emoji.decode(row["image"], "emoji")) for row in own])
        near = emoji.near_copies(pictures, emoji.NEAR)
        splits = np.array([row["split"] for row in own])
        close = np.argwhere(near & (splits[:, None] != splits[None]))
        assert len(close) <= 2  # lossy encoding moves a pixel or two past the limit


def test_every_emoji_has_two_keywords_besides_its_name(rows):
    for row in rows:
        assert len(row["keywords"]) >= emoji.KEYWORDS
        assert row["title"].casefold() not in {keyword.casefold() for keyword in row["keywords"]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"category": "Flags"}, "flag"),
        ({"unified": "1F555"}, "clock face"),
        ({"subcategory": "family"}, "family or couple"),
        ({"unified": "1F3C3-200D-27A1-FE0F"}, "faces right"),
        ({"unified": "1F3C3-200D-2640-FE0F"}, "gender variant"),
        ({"unified": "1F468-200D-1F373"}, "gender variant"),
        ({"has_img_twitter": False}, "not drawn by both, or without a name"),
    ],
)
def test_what_is_left_out(change, reason):
    plain = {"unified": "1F415", "category": "Animals", "subcategory": "mammal"}
    plain |= {"has_img_google": True, "has_img_twitter": True}
    words = {"label": "dog", "tags": ["dog", "pet", "animal"]}
    assert emoji.reason_to_leave_out(plain | change, words, frozenset({"1F9D1-200D-1F373"})) == reason
    if not change:
        few = {"label": "dog", "tags": ["dog", "pet"]}
        assert emoji.reason_to_leave_out(plain, few, frozenset()) == "fewer than 2 keywords"


def test_families_gather_by_look_and_by_name():
    names = ["cat", "cat face", "red heart", "blue heart", "sun", "moon", "tree"]
    pictures = np.random.default_rng(0).random((7, 768))
    pictures[5] = pictures[4] + 0.01
    assert emoji.families(names, [pictures]) == [0, 0, 2, 2, 4, 4, 6]


def test_splits_are_filled_by_whole_families_in_the_order_of_a_hash(monkeypatch):
    monkeypatch.setattr(emoji, "SPLITS", {"test": 3, "validation": 2})
    codes = [f"{k:X}" for k in range(8)]
    family = [0, 0, 2, 3, 4, 4, 6, 7]
    splits = emoji.draw_splits(codes, family)
    assert [splits.count(name) for name in ("test", "validation", "train")] == [3, 2, 3]
    assert splits[0] == splits[1]
    assert splits[4] == splits[5]


def test_a_wrong_package_is_refused(tmp_path):
    with pytest.raises(UserError, match="npm pack emoji-datasource-google@16.0.0"):
        emoji.packed(tmp_path, "google")
    (tmp_path / "emoji-datasource-google-16.0.0.tgz").write_bytes(b"x")
    with pytest.raises(UserError, match="has sha256 2d711642"):
        emoji.packed(tmp_path, "google")


def test_the_nine_tasks_with_families(project):
    row = project.benchmarks["emoji9"]
    contents = with_facts(reader_of(row.reader).read(ROOT / "data/emoji", ROOT / "data/emoji", row), row)
    assert len(contents.tasks) == 9
    assert len(contents.tables["query_image"]) == len(contents.clusters) == 600
    assert contents.tables["query_image"][0].item_id == "11:1"
    assert contents.tables["query_image"][0].images[0].endswith("-noto")
    assert 450 < len(set(contents.clusters)) < 600


@pytest.mark.slow
def test_the_committed_pictures_are_what_the_script_writes(tmp_path):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm")
    names = ["emoji-datasource-google@16.0.0", "emoji-datasource-twitter@16.0.0", "emojibase-data@17.0.0"]
    subprocess.run([npm, "pack", *names], cwd=tmp_path, check=True, capture_output=True)
    emoji.build(tmp_path, tmp_path / "pictures.parquet")
    assert digest(tmp_path / "pictures.parquet") == digest(PICTURES)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
