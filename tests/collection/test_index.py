"""Indexing: what becomes an item, and that nothing is embedded twice, lost or mixed."""

import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import gcl
from gcl.collection import index as module
from gcl.collection.embedder import Embedder
from gcl.collection.index import index
from gcl.collection.store import open_index, open_table, thumbnail_of
from gcl.common.arrays import MODALITIES
from gcl.common.errors import UserError
from gcl.common.files import HELD, locked
from support.collection import collect, photo


def counts(*arguments):
    return index(*arguments, "cpu")["counts"]


def nothing(**more):
    return dict.fromkeys(("added", "updated", "removed", "kept", "rejected", "embedded"), 0) | more


def contents(folder):
    """Items by id: modality, text and vector."""
    found = open_index(folder)
    rows = zip(found.items.to_pylist(), found.modalities, found.vectors, strict=True)
    return {item["id"]: (MODALITIES[code], item["text"], vector) for item, code, vector in rows}


def test_items_of_three_modalities_have_the_model_s_vectors(made, model):
    things, folder = made
    found = contents(folder)
    assert {name: modality for name, (modality, *_) in found.items()} == {
        "0.png": "image", "deep/1.txt": "text", "2.png": "image_text", "deep/3.png": "image", "4.txt": "text",
        "deep/5.png": "image_text", "6.png": "image", "deep/7.txt": "text", "8.png": "image_text",
        "deep/9.png": "image", "10.txt": "text", "deep/11.png": "image_text",
    }  # fmt: skip
    embedder = Embedder(model, "cpu")
    for name, (modality, text, vector) in found.items():
        image = str(things / name) if modality != "text" else None
        expected = embedder.embed([image], [text or None])[0]
        np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-5)
        assert abs(np.linalg.norm(vector) - 1) < 1e-5
    data = thumbnail_of(open_table(folder), "2.png")
    assert data.startswith(b"\xff\xd8")


def test_without_calibration_vectors_are_those_of_encode(model, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "calibration.json").unlink()
    collect(tmp_path / "things", 6)
    index(tmp_path / "things", bare, tmp_path / "index", "cpu")
    for name, (modality, text, vector) in contents(tmp_path / "index").items():
        image = str(tmp_path / "things" / name) if modality != "text" else None
        expected = gcl.load(bare, "cpu").encode(images=[image], texts=[text or None])[0]
        np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-5)


def test_a_second_run_adds_updates_and_removes_and_embeds_nothing_else(made, model):
    things, folder = made
    before = contents(folder)
    assert counts(things, model, folder) == nothing(kept=12)
    (things / "0.png").touch()
    assert counts(things, model, folder) == nothing(kept=12)  # the same bytes at another time
    assert counts(things, model, folder) == nothing(kept=12)
    (things / "0.png").write_bytes(photo(100))
    (things / "deep/1.txt").write_text("edited")
    (things / "4.txt").unlink()
    (things / "6.png").rename(things / "moved.png")
    (things / "new.txt").write_text("new")
    assert counts(things, model, folder) == nothing(added=2, updated=2, removed=2, kept=8, embedded=3)
    after = contents(folder)
    assert set(after) == set(before) - {"4.txt", "6.png"} | {"moved.png", "new.txt"}
    np.testing.assert_array_equal(after["moved.png"][2], before["6.png"][2])
    assert np.abs(after["0.png"][2] - before["0.png"][2]).max() > 1e-4
    assert after["deep/1.txt"][1] == "edited"
    for name in set(after) & set(before) - {"0.png", "deep/1.txt"}:
        np.testing.assert_array_equal(after[name][2], before[name][2])


def test_names_that_move_along_keep_each_its_own_vector(model, tmp_path, monkeypatch):
    """Each picture takes the name of the next, and the table is written in between."""
    monkeypatch.setattr(module, "CHUNK", 2)
    monkeypatch.setattr(module, "COMMIT", 2)
    things = tmp_path / "things"
    things.mkdir()
    for number in range(8):
        (things / f"{number}.png").write_bytes(photo(number))
    index(things, model, tmp_path / "index", "cpu")
    before = contents(tmp_path / "index")
    for number in range(8):
        (things / f"{number}.png").write_bytes(photo((number + 1) % 8))
    assert counts(things, model, tmp_path / "index")["updated"] == 8
    after = contents(tmp_path / "index")
    for number in range(8):
        expected = before[f"{(number + 1) % 8}.png"][2]
        np.testing.assert_allclose(after[f"{number}.png"][2], expected, rtol=0, atol=1e-5)


def test_a_picture_that_lies_on_its_side_is_embedded_upright(model, tmp_path):
    things = tmp_path / "things"
    things.mkdir()
    shown = Image.open(io.BytesIO(photo(3)))
    exif = Image.Exif()
    exif[0x0112] = 6
    shown.rotate(90, expand=True).save(things / "lying.png", exif=exif)
    shown.save(things / "upright.png")
    index(things, model, tmp_path / "index", "cpu")
    found = contents(tmp_path / "index")
    np.testing.assert_allclose(found["lying.png"][2], found["upright.png"][2], rtol=0, atol=1e-5)
    small = Image.open(io.BytesIO(thumbnail_of(open_table(tmp_path / "index"), "lying.png")))
    assert small.size == shown.size


def test_a_side_car_that_comes_or_goes_changes_the_item(made, model):
    things, folder = made
    (things / "0.txt").write_text("now with a text")
    (things / "2.txt").unlink()
    assert counts(things, model, folder) == nothing(updated=2, kept=10, embedded=2)
    found = contents(folder)
    assert (found["0.png"][0], found["2.png"][0]) == ("image_text", "image")


def test_a_run_that_is_killed_goes_on(model, tmp_path, monkeypatch):
    collect(tmp_path / "things")
    monkeypatch.setattr(module, "CHUNK", 2)
    monkeypatch.setattr(module, "COMMIT", 4)
    written = []

    def write_twice(table, items, write=module.write):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(len(items))
        write(table, items)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write", write_twice)
        with pytest.raises(KeyboardInterrupt):
            index(tmp_path / "things", model, tmp_path / "index", "cpu")
    half = tmp_path / "index/.scan.x"  # what a signal that can't be caught leaves
    half.mkdir()
    (half / HELD).touch()
    assert counts(tmp_path / "things", model, tmp_path / "index") == nothing(added=4, kept=8, embedded=4)
    assert len(contents(tmp_path / "index")) == 12
    assert not half.exists()


def test_what_can_not_be_used_is_listed_and_the_rest_is_there(model, tmp_path):
    things = collect(tmp_path / "things", 6)
    (things / "broken.png").write_bytes(photo(1)[:50])
    (things / "empty.txt").write_text("  ")
    (things / "latin.txt").write_bytes("café".encode("latin-1"))
    (things / "dead.png").symlink_to(tmp_path / "nowhere")
    assert counts(things, model, tmp_path / "index") == nothing(added=6, rejected=4, embedded=6)
    listing = (tmp_path / "index/rejects.csv").read_text()
    for part in ("broken.png", "can't decode", "empty.txt", "holds no text", "latin.txt", "no utf-8", "dead.png"):
        assert part in listing
    (things / "3.txt").unlink(missing_ok=True)
    (things / "0.png").write_bytes(b"")  # an item that was there and has become unreadable
    assert counts(things, model, tmp_path / "index")["removed"] == 1


def table(folder, name):
    """Three records: an image, an image with a text, and (of tables) a text."""
    for number in range(2):
        (folder / f"{number}.png").write_bytes(photo(number))
    records = [("0.png", ""), ("1.png", "a caption"), ("", "a text alone")]
    if name == "x.csv":
        (folder / name).write_text("\n".join(["image,caption", *(f"{i},{t}" for i, t in records)]))
    elif name == "x.jsonl":
        lines = [json.dumps({"file_name": i, "text": t or None}) for i, t in records[:2]]
        (folder / name).write_text("\n".join(lines))
    else:
        images = [{"bytes": photo(0), "path": None}, {"bytes": None, "path": "1.png"}]
        pq.write_table(pa.table({"image": images, "text": [None, "a caption"]}), folder / name)
    return folder / name


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_tables_are_indexed_too(model, tmp_path, name):
    (tmp_path / "things").mkdir()
    source = table(tmp_path / "things", name)
    n = 3 if name == "x.csv" else 2
    assert counts(source, model, tmp_path / "index") == nothing(added=n, embedded=n)
    found = sorted(modality for modality, *_ in contents(tmp_path / "index").values())
    assert found == ["image", "image_text", "text"][:n]
    assert counts(source, model, tmp_path / "index") == nothing(kept=n)


def test_what_would_mix_or_lose_is_refused(made, model, tmp_path):
    things, folder = made
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
    with pytest.raises(UserError, match=r"made with the model .*vectors of different models do not compare"):
        index(things, other, folder, "cpu")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UserError, match=r"is the index of .*things, not of"):
        index(tmp_path / "elsewhere", model, folder, "cpu")
    with pytest.raises(UserError, match="holds other things than an index"):
        index(things, model, things, "cpu")
    with pytest.raises(UserError, match="is not there; give a folder"):
        index(tmp_path / "none", model, tmp_path / "i", "cpu")
    with pytest.raises(UserError, match=r"neither a folder nor a file of \.csv"):
        index(things / "0.png", model, tmp_path / "i2", "cpu")
    with pytest.raises(UserError, match="is no model folder"):
        index(things, tmp_path, tmp_path / "i3", "cpu")
    with locked(folder / ".lock"), pytest.raises(UserError, match="another process holds"):
        index(things, model, folder, "cpu")
    assert len(contents(folder)) == 12  # nothing was touched


def test_a_half_written_index_is_mended_or_said(made, model):
    things, folder = made
    shutil.rmtree(folder / "scan")
    assert len(contents(folder)) == 12  # made anew from the table
    (folder / "scan/vectors.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"broken|not as `index`"):
        open_index(folder)
    shutil.rmtree(folder / "scan")
    shutil.rmtree(folder / "items.lance")
    with pytest.raises(UserError, match="holds no table"):
        open_index(folder)
    assert counts(things, model, folder) == nothing(added=12, embedded=12)


def test_an_edit_by_another_tool_is_seen(made):
    _, folder = made
    assert len(contents(folder)) == 12
    open_table(folder).delete("id = '0.png'")
    assert len(contents(folder)) == 11


def test_an_empty_folder_is_an_empty_index(model, tmp_path):
    (tmp_path / "things").mkdir()
    assert counts(tmp_path / "things", model, tmp_path / "index") == nothing()
    assert contents(tmp_path / "index") == {}
