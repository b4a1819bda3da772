"""Pairs as people really have them: what is read, what is rejected by name, and that nothing vanishes."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcl.common.errors import UserError
from gcl.data.images import decode
from gcl.data.records import read_parquet
from gcl.prepare.pairs import SUFFIXES, reader_of_pairs
from gcl.prepare.pairs.auto import shape_of
from gcl.prepare.prepare import prepare_pairs
from support.own import beside, picture, read, shard


@pytest.mark.parametrize(
    ("name", "text", "reasons"),
    [
        ("pairs.csv", "image,caption\n0.png,a cat, a dog\n1.png,fine\n", {"line 2": "3 cells, the header has 2"}),
        ("pairs.tsv", "image\tcaption\n0.png\ta\tcat\n1.png\tfine\n", {"line 2": "3 cells, the header has 2"}),
        ("PAIRS.CSV", "image;caption\n0.png\n1.png;fine\n", {"line 2": "1 cells, the header has 2"}),
        ("pairs.csv", 'image,caption\n0.png,"two\nlines"\n1.png,fine\n', {}),
    ],
)
def test_a_row_with_more_or_fewer_cells_is_rejected_by_its_line(tmp_path, name, text, reasons):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    (tmp_path / name).write_text(text, newline="")
    pairs, rejects = read(tmp_path)
    assert "fine" in [pair.texts[0] for pair in pairs]
    assert len(pairs) == 2 - len(reasons)
    assert {record: why.split(";")[0] for record, why in rejects.items()} == reasons


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "pairs.csv").write_text("image,caption,caption\n0.png,a,b\n")
    with pytest.raises(UserError, match=r"pairs\.csv has 2 columns named caption; rename one"):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("form", ["folder", "tar", "table"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding, form):
    text = "café 🐈"
    if form == "folder":
        beside(tmp_path, "a", text.encode(encoding))
    elif form == "tar":
        shard(tmp_path / "0.tar", {"a.png": picture(), "a.txt": text.encode(encoding)})
    else:
        (tmp_path / "a.png").write_bytes(picture())
        (tmp_path / "pairs.csv").write_bytes(f"image,caption\na.png,{text}\n".encode(encoding))
    pairs, rejects = read(tmp_path)
    assert [pair.texts for pair in pairs] == [(text,)]
    assert rejects == {}


def test_text_in_another_encoding_is_rejected_by_name(tmp_path):
    beside(tmp_path, "a", "café".encode("cp1252"))
    beside(tmp_path, "b", "fine", 1)
    pairs, rejects = read(tmp_path)
    assert [pair.texts for pair in pairs] == [("fine",)]
    assert rejects == {"a.png": "text is no utf-8 (byte 0xe9 at 3); save it as UTF-8"}


@pytest.mark.parametrize(
    ("side_car", "expected"),
    [
        ("null", "side-car holds 'None', expected an object"),
        ("5", "side-car holds '5'"),
        ('"a title"', "side-car holds 'a title'"),
        ("{", "side-car is no JSON"),
        ('{"caption": NaN}', "no caption"),
        ('{"caption": 7}', "caption is '7', a int, expected a text"),
        ('{"caption": {"raw": "x"}}', "caption is \"{'raw': 'x'}\", a dict, expected a text"),
        ('{"caption": "half a cat \\ud83d"}', "is not well-formed Unicode (at 11)"),
        ('{"other": "x"}', "no caption"),
        ('["one", "two"]', ("one", "two")),
        ('{"caption": ["one", null, "two"]}', ("one", "two")),
    ],
)
@pytest.mark.parametrize("form", ["folder", "tar"])
def test_a_side_car_is_read_or_rejected_by_name(tmp_path, form, side_car, expected):
    if form == "folder":
        beside(tmp_path, "a", side_car, suffix=".json")
    else:
        shard(tmp_path / "0.tar", {"a.png": picture(), "a.json": side_car.encode()})
    pairs, rejects = read(tmp_path)
    if isinstance(expected, tuple):
        assert [pair.texts for pair in pairs] == [expected]
    else:
        (reason,) = rejects.values()
        assert expected in reason


@pytest.mark.parametrize("values", [[float("nan"), 2.0], [{"text": "a"}, {"text": "b"}]])
def test_a_column_that_holds_no_texts_is_rejected_row_by_row(tmp_path, values):
    images = [{"bytes": picture(n), "path": None} for n in range(2)]
    pq.write_table(pa.table({"image": images, "caption": values}), tmp_path / "x.parquet")
    pairs, rejects = read(tmp_path)
    assert pairs == []
    assert set(rejects) == {"x.parquet row 0", "x.parquet row 1"}


def no_utf8(texts):
    """A column of text that holds bytes of another encoding, as some writers leave them unchecked."""
    return pa.Array.from_buffers(pa.string(), len(texts), pa.array(texts, pa.binary()).buffers())


@pytest.mark.parametrize("column", ["caption", "image"])
def test_a_cell_in_other_bytes_is_rejected_by_its_row(tmp_path, column):
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "b.png").write_bytes(picture(1))
    cells = {"image": [b"a.png", b"b.png"], "caption": [b"fine", b"good"]}
    cells[column][1] = b"caf\xe9"
    pq.write_table(pa.table({name: no_utf8(values) for name, values in cells.items()}), tmp_path / "x.parquet")
    pairs, rejects = read(tmp_path, "parquet")
    assert [pair.texts for pair in pairs] == [("fine",)]
    assert list(rejects) == ["x.parquet row 1"]
    with pytest.raises(UserError, match=r"can't read .*x\.parquet .* as Parquet: .*Invalid UTF8"):
        read_parquet(tmp_path / "x.parquet")


def test_a_name_in_other_bytes_is_rejected_by_name(tmp_path):
    beside(tmp_path, "a", "fine")
    odd = os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9")
    Path(odd + ".png").write_bytes(picture(1))
    Path(odd + ".txt").write_text("a cafe")
    pairs, rejects = read(tmp_path)
    assert [pair.name for pair in pairs] == ["a.png"]
    assert list(rejects) == ["caf\\udce9.png"]
    prepare_pairs(tmp_path, "auto", 0.5, None, tmp_path.with_name("out"))  # what is rejected can be written


def test_postscript_named_jpg_starts_nothing(tmp_path, monkeypatch):
    """Pillow would hand it to Ghostscript."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gs").write_text('#!/bin/sh\ntouch "$GS_LOG"\nexit 1\n')
    (tmp_path / "bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GS_LOG", str(tmp_path / "started"))
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(UserError, match=r"can't decode image x\.jpg \(\d+ bytes\): cannot identify image file$"):
        decode(data, "x.jpg")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_read_in_folders_and_shards_dots_in_names_included(tmp_path, suffix):
    form = {"jpg": "JPEG", "jpeg": "JPEG", "jfif": "JPEG", "tif": "TIFF", "tiff": "TIFF"}.get(suffix[1:], suffix[1:])
    data = picture(3, form.upper())
    (tmp_path / "folder").mkdir()
    (tmp_path / f"folder/a.b{suffix.upper()}").write_bytes(data)
    (tmp_path / "folder/a.b.TXT").write_text("a cat")
    (tmp_path / "tar").mkdir()
    shard(tmp_path / "tar/0.tar", {f"x/a.b{suffix}": data, "x/a.b.txt": b"a cat", "x/index.json": b"{}"})
    for form in ("folder", "tar"):
        pairs, rejects = read(tmp_path / form)
        assert [pair.texts for pair in pairs] == [("a cat",)]
        assert rejects == {}


def test_linked_folders_are_entered_once_and_loops_end(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    beside(tmp_path / "elsewhere", "b", "linked", 1)
    (tmp_path / "pairs").mkdir()
    beside(tmp_path / "pairs", "a", "here")
    (tmp_path / "pairs/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "pairs")
    pairs, rejects = read(tmp_path / "pairs")
    assert sorted(pair.texts[0] for pair in pairs) == ["here", "linked"]
    assert rejects == {}


def test_files_of_operating_systems_are_skipped_and_counted(tmp_path, caplog):
    caplog.set_level("INFO")
    beside(tmp_path, "a", "fine")
    (tmp_path / "__MACOSX").mkdir()
    for name in ("._a.png", "__MACOSX/._a.png", ".DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    pairs, rejects = read(tmp_path)
    assert (len(pairs), rejects) == (1, {})
    assert "skipped 3 files of operating systems" in caplog.text


def test_what_is_no_image_but_has_a_caption_is_listed_and_a_fifo_does_not_hang(tmp_path):
    beside(tmp_path, "a", "fine")
    (tmp_path / "b.heic").write_bytes(b"x")
    (tmp_path / "b.txt").write_text("a photograph")
    os.mkfifo(tmp_path / "c.png")
    pairs, rejects = read(tmp_path, "folder")
    assert [pair.name for pair in pairs] == ["a.png"]
    assert rejects["b.heic"].startswith("no image: its name ends in none of .jpg")
    assert rejects["c.png"] == "no regular file"


@pytest.mark.parametrize("form", ["files", "folders", "saved"])
def test_of_several_splits_the_one_for_training_is_read(tmp_path, form, caplog):
    rows = {"train": 4, "validation": 2, "test": 3}
    for split, n in rows.items():
        table = pa.table({"image": [{"bytes": picture(k), "path": None} for k in range(n)], "text": [split] * n})
        if form == "files":
            (tmp_path / "data").mkdir(exist_ok=True)
            pq.write_table(table, tmp_path / f"data/{split}-00000-of-00001.parquet")
        elif form == "folders":
            (tmp_path / split).mkdir()
            pq.write_table(table, tmp_path / split / "0.parquet")
        else:
            (tmp_path / split).mkdir()
            file = pa.OSFile(str(tmp_path / split / "data.arrow"), "wb")
            with file, pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
            state = {"_data_files": [{"filename": "data.arrow"}]}
            (tmp_path / split / "state.json").write_text(json.dumps(state))
    pairs, _ = read(tmp_path)
    assert [pair.texts for pair in pairs] == [("train",)] * 4
    assert "holds the splits test, train, validation: train alone is read" in caplog.text


def test_splits_without_one_for_training_are_a_question(tmp_path):
    for split in ("validation", "test"):
        pq.write_table(pa.table({"image": [b"x"], "text": ["x"]}), tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(UserError, match="holds the splits test, validation and none named train"):
        read(tmp_path)


def test_the_files_layout_of_img2dataset_is_a_folder(tmp_path):
    (tmp_path / "00000").mkdir()
    beside(tmp_path / "00000", "000000000", "a cat")
    pq.write_table(pa.table({"url": ["x"], "caption": ["a cat"]}), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    assert shape_of(tmp_path) == "folder"
    pairs, rejects = read(tmp_path)
    assert (len(pairs), rejects) == (1, {})


def test_a_folder_that_may_not_be_written_to_is_one_message(tmp_path):
    beside(tmp_path, "a", "fine")
    command = [sys.executable, "-m", "gcl.prepare.check", str(tmp_path), "--batch-size", "2"]
    if os.getuid() == 0:  # root may write anywhere
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    tmp_path.chmod(0o555)
    done = subprocess.run(command, capture_output=True, text=True)
    tmp_path.chmod(0o755)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_locale_decides_nothing(tmp_path):
    beside(tmp_path, "a", "café 🐈")
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "gcl.prepare", "--data", str(tmp_path), "--reader", "folder"]
    subprocess.run([*command, "--output", str(tmp_path / "out")], env=environment, check=True, capture_output=True)
    assert pq.read_table(tmp_path / "out/texts.parquet")["text"].to_pylist() == ["café 🐈"]
    beside(tmp_path, "b", "café 🐈", 1)
    checking = [sys.executable, "-m", "gcl.prepare.check", str(tmp_path), "--batch-size", "2"]
    done = subprocess.run(checking, env=environment, check=True, capture_output=True)
    assert "'café 🐈'" in done.stdout.decode()


NAMES = st.text(st.sampled_from("ab.é _-"), min_size=1, max_size=6).filter(lambda name: name.strip(". "))
FILES = st.dictionaries(
    st.tuples(NAMES, st.sampled_from([".png", ".PNG", ".heic", ".tif", ".txt", ".json"])),
    st.sampled_from([b"", b"x", b"\xff\xfe", b'{"caption": "c"}', b"null", picture(1), picture(2, "TIFF")]),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(FILES, st.sampled_from(["folder", "tar"]))
def test_what_is_found_and_rejected_is_all_that_lies_there(files, form):
    """Every image, and whatever has a caption, is a pair or a reject."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if form == "tar":
            shard(folder / "0.tar", {"".join(name): data for name, data in files.items()})
        else:
            for name, data in files.items():
                (folder / "".join(name)).write_bytes(data)
        reader = "webdataset" if form == "tar" else "folder"
        records = {pair.image.rpartition("/")[2].rpartition("::")[2] for pair in reader_of_pairs(reader).read(folder)}
        names = {"".join(name) for name in files if not "".join(name).startswith("._")}
        images = {name for name in names if name.lower().endswith(SUFFIXES)}
        if form == "tar":  # several images of one stem are one record, named by one of them
            found = {r.rpartition(".")[0] if r.lower().endswith(SUFFIXES) else r for r in records}
            assert {name.rpartition(".")[0] for name in images} <= found
        else:
            assert images <= records
