"""Forms in which tools of the field leave pairs: read as they are, with nothing lost; images turned upright."""

import io
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gcl.common.errors import UserError
from gcl.data.images import UPRIGHT, examine, open_image, read_bytes
from gcl.data.records import read_parquet
from gcl.prepare.check import check
from gcl.prepare.pairs.auto import shape_of
from gcl.prepare.prepare import prepare_pairs
from support.own import picture, read, shard


def captions(pairs):
    return {pair.image.rpartition("/")[2]: pair.texts for pair in pairs}


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("split", ["", "train/"])
def test_an_image_folder_of_the_hub_is_read_and_what_no_line_names_is_listed(tmp_path, name, split):
    folder = tmp_path / split
    folder.mkdir(exist_ok=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(picture(number))
    if name == "metadata.csv":
        text = 'file_name,text\n0.png,"a cat, asleep"\n1.png,a dog\n'
    else:
        text = '{"file_name": "0.png", "text": "a cat, asleep"}\n{"file_name": "1.png", "text": ["a dog", "a pet"]}\n'
    (folder / name).write_text(text)
    assert shape_of(tmp_path) == "image_folder"
    pairs, rejects = read(tmp_path)
    expected = {"0.png": ("a cat, asleep",), "1.png": ("a dog",) if name == "metadata.csv" else ("a dog", "a pet")}
    assert captions(pairs) == expected
    assert rejects == {f"{split}2.png": "no line of metadata.jsonl, metadata.csv names it"}


def test_lines_of_metadata_that_can_not_be_used_are_rejected_by_number(tmp_path):
    (tmp_path / "0.png").write_bytes(picture())
    lines = [
        b'{"file_name": "0.png", "text": "fine"}',
        b'{"file_name": "0.png", "text": 3}',
        b'{"file_name": "0.png"}',
        b"",
        b"[1]",
        b"{",
        b'{"file_name": null, "text": "x"}',
        b'{"file_name": "0.png", "text": "caf\xe9"}',
        b'{"file_name": "0.png", "text": "\\ud83d"}',
    ]
    (tmp_path / "metadata.jsonl").write_bytes(b"\r\n".join(lines))
    pairs, rejects = read(tmp_path)
    assert captions(pairs) == {"0.png": ("fine",)}
    parts = {2: "a int, expected", 3: "no column for the caption", 5: "expected an object", 6: "no JSON"}
    parts |= {7: "file_name is None", 8: "no utf-8", 9: "not well-formed"}
    assert set(rejects) == {f"metadata.jsonl line {number}" for number in parts}
    for number, part in parts.items():
        assert part in rejects[f"metadata.jsonl line {number}"]


def coco_file(path, n=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": 10 + k, "file_name": f"{k:012}.png", "height": 8} for k in range(n)]
    annotations = [
        {"id": 1, "image_id": 10, "caption": "a red square"},
        {"id": 2, "image_id": 11, "caption": "a dark square"},
        {"id": 3, "image_id": 10, "caption": "something red"},
        {"id": 4, "image_id": 99, "caption": "of nothing"},
    ]
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))


@pytest.mark.parametrize("place", ["train2017", "images/train2017", "images", ".", "train2017.zip", "zip of names"])
def test_coco_captions_are_read_wherever_the_images_lie(tmp_path, place):
    coco_file(tmp_path / "annotations/captions_train2017.json", 3)
    coco_file(tmp_path / "annotations/captions_val2017.json")
    names = [f"{k:012}.png" for k in range(2)]
    if "zip" in place:
        with zipfile.ZipFile(tmp_path / "train2017.zip", "w") as archive:
            for k, name in enumerate(names):
                archive.writestr(f"train2017/{name}" if place == "train2017.zip" else name, picture(k))
    else:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        for k, name in enumerate(names):
            (tmp_path / place / name).write_bytes(picture(k))
    assert shape_of(tmp_path) == "coco"
    pairs, rejects = read(tmp_path)
    assert [pair.texts for pair in pairs] == [("a red square", "something red"), ("a dark square",)]
    assert [read_bytes(pair.image) for pair in pairs] == [picture(0), picture(1)]
    assert rejects.pop("captions_train2017.json image 12") == "no caption"
    ((name, why),) = rejects.items()
    assert "'image_id': 99" in name
    assert why == "its image_id is no id of images"


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"images": [], "annotations": {}}', '{"images": [3], "annotations": []}']
)
def test_captions_in_another_form_are_named(tmp_path, content):
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(UserError, match=r"captions\.json"):
        read(tmp_path, "coco")


def save_to_disk(table, folder):
    """Write a table as Hugging Face datasets saves it."""
    with pa.ipc.new_stream(folder / "data.arrow", table.schema) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')


@pytest.mark.parametrize("form", ["parquet", "datasets"])
def test_rows_that_name_a_path_instead_of_bytes(tmp_path, form):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/0.png").write_bytes(picture(0))
    images = [
        {"bytes": None, "path": "images/0.png"},
        {"bytes": picture(1), "path": "elsewhere.png"},
        {"bytes": None, "path": "images/none.png"},
        {"bytes": None, "path": None},
    ]
    table = pa.table({"image": images, "text": [f"caption {k}" for k in range(4)]})
    if form == "parquet":
        pq.write_table(table, tmp_path / "data.parquet", row_group_size=3)
    else:
        save_to_disk(table, tmp_path)
    pairs, rejects = read(tmp_path, form)
    assert [pair.texts for pair in pairs] == [("caption 0",), ("caption 1",)]
    assert [read_bytes(pair.image) for pair in pairs] == [picture(0), picture(1)]
    assert "none.png is missing" in next(why for name, why in rejects.items() if name.endswith("row 2"))
    assert "no image bytes" in next(why for name, why in rejects.items() if name.endswith("row 3"))


def test_a_column_of_picture_ids_changes_nothing(tmp_path):
    table = pa.table({"picture_id": ["a", "b"], "image": [picture(0), picture(1)], "text": ["one", "two"]})
    pq.write_table(table, tmp_path / "data.parquet")
    pairs, rejects = read(tmp_path)
    assert [read_bytes(pair.image) for pair in pairs] == [picture(0), picture(1)]
    assert rejects == {}


CAPTIONS = st.sampled_from(["a cat", "a cat", "", None, 3, "café, with\nlines", ["one", "two"]])
IMAGES = st.sampled_from([picture(1), picture(2), b"", b"no picture", None])


def written(folder, form, records):
    """Write records (caption, bytes of the image) in a form."""
    names = [f"images/{k}.png" for k in range(len(records))]
    (folder / "images").mkdir()
    for name, (_, data) in zip(names, records, strict=True):
        if data is not None and form not in ("parquet", "datasets"):
            (folder / name).write_bytes(data)
    if form == "image_folder":
        lines = [json.dumps({"file_name": n, "text": c}) for n, (c, _) in zip(names, records, strict=True)]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    elif form == "table":
        pq_csv = [f'{n},"{c or ""!s}"' for n, (c, _) in zip(names, records, strict=True)]
        (folder / "pairs.csv").write_text("\n".join(["image,caption", *pq_csv]))
    elif form == "coco":
        images = [{"id": k, "file_name": n} for k, n in enumerate(names)]
        annotations = [{"image_id": k, "caption": c} for k, (c, _) in enumerate(records)]
        (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    else:
        table = pa.table(
            {
                "image": pa.array([{"bytes": d, "path": n} for n, (_, d) in zip(names, records, strict=True)]),
                "text": pa.array([None if c is None else str(c) for c, _ in records], pa.string()),
            }
        )
        if form == "parquet":
            pq.write_table(table, folder / "p.parquet", row_group_size=2)
        else:
            save_to_disk(table, folder)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(CAPTIONS, IMAGES), min_size=1, max_size=6),
    st.sampled_from(["image_folder", "table", "coco", "parquet", "datasets"]),
)
def test_usable_and_rejected_are_all_records_whatever_the_form(records, form):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        written(folder, form, records)
        assert shape_of(folder) == form
        pairs, rejects = read(folder)
        assert len(pairs) + len(rejects) == len(records)
        fine = {(str(c), d) for c, d in records if c and d and d.startswith(b"\x89PNG") and (c != 3 or form in PLAIN)}
        assert len(pairs) == len(fine)


PLAIN = ("table", "parquet", "datasets")  # where a number is written as text


def lying(orientation, form="JPEG"):
    """A picture, dark on the left and light on the right as it is to be seen."""
    shown = np.zeros((40, 60, 3), np.uint8)
    shown[:, 30:] = 250
    turns = {1: lambda a: a, 3: lambda a: np.rot90(a, 2), 6: lambda a: np.rot90(a, 1), 8: lambda a: np.rot90(a, -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(turns[orientation](shown))).save(buffer, form, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("packed", [False, True])
def test_own_pictures_are_turned_upright_and_counted(tmp_path, form, packed, capsys):
    files = {f"{k}.{form.lower()}": lying(k, form) for k in (1, 3, 6, 8)}
    files |= {f"{k}.txt": f"orientation {k}".encode() for k in (1, 3, 6, 8)}
    if packed:
        shard(tmp_path / "0.tar", files)
    else:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
    pairs, _ = read(tmp_path)
    assert sorted(pair.image.endswith(UPRIGHT) for pair in pairs) == [False, True, True, True]
    for pair in pairs:
        pixels = np.asarray(open_image(pair.image, 16))
        assert pixels.shape[1] > pixels.shape[0]
        assert pixels[:, 2].mean() < 20
        assert pixels[:, -2].mean() > 230
    check(tmp_path, "auto", 2, 8, 0.0, tmp_path.with_suffix(".csv"))
    assert "orientation:   3 images are turned upright" in capsys.readouterr().out
    prepare_pairs(tmp_path, "auto", 0.0, None, tmp_path / "out")
    locations = read_parquet(tmp_path / "out/locations.parquet")["location"].to_pylist()
    assert sum(location.endswith(UPRIGHT) for location in locations) == 3


def test_a_broken_exif_block_does_no_harm(tmp_path):
    data = lying(6)
    start = data.index(b"Exif\0\0") + 6
    (tmp_path / "x.jpg").write_bytes(data[:start] + b"\xff" * 8 + data[start + 8 :])
    assert not examine(str(tmp_path / "x.jpg")).fault


def test_a_part_of_an_image_has_bytes_of_its_own(tmp_path):
    (tmp_path / "x.jpg").write_bytes(lying(6))
    place = f"{tmp_path}/x.jpg{UPRIGHT}"
    part = open_image(f"{place}::part/50/0/50/100")
    assert part.size == (30, 40)
    assert np.asarray(part)[:, 2:].mean() > 230
    assert examine(f"{place}::part/50/0/50/100").sha256 != examine(place).sha256
    assert not examine(place).is_turned  # its location says so already
