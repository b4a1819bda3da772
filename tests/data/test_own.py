"""A data set of one's own is known by its content."""

import os

import pytest

from gcl.common.errors import UserError
from gcl.config.datasets import Dataset, File
from gcl.data import own
from gcl.data.own import fingerprint, is_unpinned


def test_content_counts_and_times_do_not(tmp_path, monkeypatch):
    folder, memory = tmp_path / "mine", tmp_path / "memory.json"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/a.txt").write_text("a")
    first = fingerprint(folder, memory)
    read = []
    monkeypatch.setattr(own, "sha256_file", lambda path: read.append(path.name) or "x" * 64)
    assert fingerprint(folder, memory) == first
    assert read == []  # sizes and times are the same: no file was read
    monkeypatch.undo()
    os.utime(folder / "deep/a.txt", (1, 1))
    assert fingerprint(folder, memory) == first
    (folder / "deep/a.txt").write_text("b")
    edited = fingerprint(folder, memory)
    (folder / "b.txt").write_text("b")
    added = fingerprint(folder, memory)
    (folder / "deep/a.txt").rename(folder / "deep/c.txt")
    assert len({first, edited, added, fingerprint(folder, memory)}) == 4


def test_what_the_stages_write_there_does_not_count(tmp_path):
    (tmp_path / "mine").mkdir()
    before = fingerprint(tmp_path / "mine", tmp_path / "m.json")
    for name in ("fetched.json", "rejects.csv"):
        (tmp_path / "mine" / name).write_text("x")
    os.mkfifo(tmp_path / "mine/pipe")
    (tmp_path / "mine/loop").symlink_to(tmp_path / "mine")
    assert fingerprint(tmp_path / "mine", tmp_path / "m.json") == before
    assert fingerprint(tmp_path / "no such folder", tmp_path / "n.json") == before


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.txt").write_text("a")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(own, "sha256_file", refuse)  # root may read anything
    with pytest.raises(UserError, match=r"can't read .*mine/a\.txt: Permission denied; make it readable"):
        fingerprint(tmp_path / "mine", tmp_path / "m.json")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], True),
        ([{"path": "model.pt"}], True),
        ([{"path": "model.pt", "sha256": "0" * 64}], False),
        ([{"path": "model.pt", "urls": ["https://x"]}], False),
    ],
)
def test_files_without_source_and_hash_are_known_by_their_content(tmp_path, files, expected):
    row = Dataset(source="mine", licence="mine", files=[File(**file) for file in files])
    assert is_unpinned(row) == expected
    for name in ("model.pt", "other.txt"):
        (tmp_path / name).write_text("a")
    one = fingerprint(tmp_path, tmp_path.with_suffix(".json"), ["model.pt"])
    (tmp_path / "other.txt").write_text("bb")
    assert fingerprint(tmp_path, tmp_path.with_suffix(".json"), ["model.pt"]) == one
    (tmp_path / "model.pt").write_text("bb")
    assert fingerprint(tmp_path, tmp_path.with_suffix(".json"), ["model.pt"]) != one
