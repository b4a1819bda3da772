"""Archives and videos that are fetched: cut, hostile, dead and resumed."""

import io
import json
import stat
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gcl.common.errors import UserError
from gcl.common.rows import parse
from gcl.config.datasets import Archive, Dataset, File, Videos, selected
from gcl.fetch.fetch import check_space, fetch
from gcl.fetch.unpack import unpack
from gcl.fetch.videos import fetch_videos
from support.fixtures import pictures, tar_gz, video

FILES = {f"top/{kind}/{k}.txt": f"{kind}{k}".encode() * 50 for kind in ("cats", "dogs") for k in range(5)}


def in_parts(folder, data, n=3):
    size = len(data) // n + 1
    for k in range(n):
        (folder / f"x.tar.gz.part-0{k}").write_bytes(data[k * size : (k + 1) * size])
    return Archive(parts=[f"x.tar.gz.part-0{k}" for k in range(n)])


def known(archive):
    return {part: {"sha256": part} for part in archive.parts}


def test_parts_are_unpacked_as_one_and_only_once(tmp_path):
    archive = in_parts(tmp_path, tar_gz(FILES))
    about = unpack(archive, tmp_path, known(archive))
    assert about["files"] == 10
    assert all((tmp_path / name).read_bytes() == data for name, data in FILES.items())
    for part in archive.parts:
        (tmp_path / part).unlink()
    assert unpack(archive, tmp_path, known(archive)) == about  # nothing is read again


def test_only_what_the_tasks_need_is_unpacked_below_the_folder(tmp_path):
    parts = in_parts(tmp_path, tar_gz(FILES)).parts
    members = {"cats/": ["a", "b"], "dogs/": ["c"]}
    row = Dataset(
        source="s", licence="l", files=[], archives=[Archive(parts=parts, strip=1, to="out", members=members)]
    )
    (archive,) = selected(row, ["b"]).archives
    unpack(archive, tmp_path, known(archive))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cats"]
    (archive,) = selected(row, ["b", "c"]).archives  # more is wanted later
    unpack(archive, tmp_path, known(archive))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["cats", "dogs"]
    assert selected(row, ["z"]).archives == []


def test_parts_that_are_unpacked_are_removed_on_request_and_not_missed(tmp_path):
    archive = replace(in_parts(tmp_path, tar_gz(FILES)), discard=True)
    row = Dataset(source="s", licence="l", files=[File(path=part) for part in archive.parts], archives=[archive])
    fetch("x", row, tmp_path / "fetched.json", None)
    assert not any((tmp_path / part).exists() for part in archive.parts)
    assert all((tmp_path / name).read_bytes() == data for name, data in FILES.items())
    (tmp_path / "fetched.json").unlink()
    fetch("x", row, tmp_path / "fetched.json", None)  # downloads nothing, finds nothing missing
    assert json.loads((tmp_path / "fetched.json").read_text())["unpacked"][0]["files"] == 10


def test_folders_that_are_there_are_adopted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    part, members = {"path": "x.tar"}, {"top/cats/": ["a"], "top/dogs/": ["b"]}
    row = {"source": "s", "licence": "l", "files": [part], "archives": [{"parts": ["x.tar"], "members": members}]}
    (tmp_path / "rows.yaml").write_text(json.dumps({"x": row, "y": {**row, "archives": []}}))
    with pytest.raises(ValueError, match=r"no files in data/x/top/cats, data/x/top/dogs; unpack x\.tar there"):
        fetch("x", None, None, None, tmp_path / "rows.yaml")
    with pytest.raises(ValueError, match="'y' has no archives"):
        fetch("y", None, None, None, tmp_path / "rows.yaml")
    (tmp_path / "data/x/top/cats").mkdir(parents=True)
    (tmp_path / "data/x/top/cats/1.txt").write_text("cat")
    fetch("x", None, None, None, tmp_path / "rows.yaml")
    whole = parse(Dataset, row, "x")
    fetch("x", selected(whole, ["a"]), tmp_path / "data/x/fetched.json", None)
    with pytest.raises(ValueError, match=r"x\.tar is missing"):  # dogs are not there
        fetch("x", selected(whole, ["b"]), tmp_path / "data/x/fetched.json", None)


def test_a_cut_archive_is_an_error_and_goes_on_when_it_is_whole(tmp_path):
    data = tar_gz({f"{k}.bin": bytes(range(256)) * (k + 1) * 40 for k in range(40)})
    archive = in_parts(tmp_path, data[: len(data) // 2], 2)
    with pytest.raises(ValueError, match=r"part-00 can't be unpacked after \d+ files: .*is it complete\?"):
        unpack(archive, tmp_path, known(archive))
    done = {p.name for p in tmp_path.glob("*.bin")}
    assert not list(tmp_path.glob(".*.bin*"))
    archive = in_parts(tmp_path, data, 2)
    unpack(archive, tmp_path, known(archive))
    assert {p.name for p in tmp_path.glob("*.bin")} == {f"{k}.bin" for k in range(40)} >= done
    assert all((tmp_path / f"{k}.bin").stat().st_size == 256 * (k + 1) * 40 for k in range(40))


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt"])
def test_a_member_that_leaves_the_folder_is_refused(tmp_path, name):
    archive = in_parts(tmp_path, tar_gz({name: b"x"}), 1)
    with pytest.raises(ValueError, match="leaves the folder; not unpacked"):
        unpack(archive, tmp_path, known(archive))
    assert not (tmp_path.parent / "out.txt").exists()


def test_links_are_not_unpacked(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    archive = in_parts(tmp_path, buffer.getvalue(), 1)
    assert unpack(archive, tmp_path, known(archive))["skipped"] == 1
    assert not (tmp_path / "link").exists()


def test_an_archive_that_grows_beyond_its_size_is_stopped(tmp_path):
    parts = in_parts(tmp_path, tar_gz({"bomb": bytes(10**6)})).parts
    archive = Archive(parts=parts, bytes=1000)
    with pytest.raises(ValueError, match="unpacks to more than the 1000 bytes"):
        unpack(archive, tmp_path, known(archive))
    assert not (tmp_path / "bomb").exists()


def test_space_is_checked_before_anything_is_fetched(tmp_path):
    row = Dataset(source="s", licence="l", files=[File(path="x", bytes=10**18)])
    with pytest.raises(ValueError, match=r"'big' needs 1000000000\.0 GB for files"):
        check_space("big", row, tmp_path)
    with pytest.raises(ValueError, match="GB free"):
        fetch("big", row, tmp_path / "fetched.json", None)


class Handler(SimpleHTTPRequestHandler):
    """Serves one good video; everything else is a page that says 200, or 404."""

    good = b""

    def do_GET(self):
        body = self.good if "good" in self.path else b"<html>removed</html>"
        self.send_response(404 if "dead" in self.path else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_dead_videos_are_listed_and_good_ones_kept(tmp_path):
    Handler.good = video(pictures(1)[0][1], 5)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    listed = {
        "a/1.mp4": f"{base}/good",
        "a/2.mp4": f"{base}/dead",
        "b/3.mp4": f"{base}/page",
        "b/4.mp4": "http://127.0.0.1:9/x",
    }
    (tmp_path / "urls.json").write_text(json.dumps(listed))
    try:
        found = fetch_videos(Videos(urls="urls.json", to="videos"), tmp_path)
    finally:
        server.shutdown()
        server.server_close()  # else the second try waits for an answer
    assert found == {"videos": 4, "missing": 3}
    assert [p.name for p in (tmp_path / "videos").rglob("*.mp4")] == ["1.mp4"]
    lines = (tmp_path / "missing.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["video", "a/2.mp4", "b/3.mp4", "b/4.mp4"]
    assert fetch_videos(Videos(urls="urls.json", to="videos"), tmp_path)["missing"] == 3  # offline, the good one stays
    (tmp_path / "urls.json").write_text(json.dumps({"../../x.mp4": base}))
    with pytest.raises(ValueError, match="leaves the folder of videos"):
        fetch_videos(Videos(urls="urls.json", to="videos"), tmp_path)


def test_a_zip_file_is_unpacked_without_its_links(tmp_path):
    link = zipfile.ZipInfo("annotations/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("annotations/captions.json", "{}")
        archive.writestr("annotations/instances.json", "[1]")
        archive.writestr(link, "/etc/passwd")
    row = Archive(parts=["a.zip"], members={"annotations/captions.json": [], "annotations/link": []})
    about = unpack(row, tmp_path, {"a.zip": {"sha256": "0" * 64}})
    assert (about["files"], about["skipped"]) == (1, 1)
    assert [path.name for path in (tmp_path / "annotations").iterdir()] == ["captions.json"]


@pytest.mark.parametrize("broken", ["cut", "climbs", "parts"])
def test_a_broken_zip_file_is_refused(tmp_path, broken):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../out" if broken == "climbs" else "in", "text")
    if broken == "cut":
        (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:20])
    parts = ["a.zip", "b.zip"] if broken == "parts" else ["a.zip"]
    said = {
        "cut": "can't be unpacked after 0 files",
        "climbs": "leaves the folder",
        "parts": "in 2 parts; expected one",
    }
    with pytest.raises(UserError, match=said[broken]):
        unpack(Archive(parts=parts), tmp_path, {part: {"sha256": "0" * 64} for part in parts})
