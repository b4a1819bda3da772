"""Downloads against servers on loopback that misbehave as real ones do."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gcl.common.rows import load_yaml
from gcl.config.datasets import Dataset, File
from gcl.fetch.fetch import fetch

DATA = bytes(range(256)) * 8000  # 2 MB, many blocks
SHA = hashlib.sha256(DATA).hexdigest()
LARGE = DATA * 12  # more than the 10 MB that the hub's client writes at a time
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def server():
    """Serve DATA at /whole, its first half at /truncated, other bytes at /altered; break off /dropped and /large."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.reply(head=True)

        def do_GET(self):
            self.reply(head=False)

        def reply(self, head):
            seen.append((self.command, self.path, self.headers.get("Range")))
            name = self.path.rsplit("/", 1)[-1]
            if name == "missing":
                self.send_error(404)
                return
            body = {
                "large": LARGE,
                "altered": DATA[::-1],
                "truncated": DATA[: len(DATA) // 2],
                "longer": DATA + b"x",
            }.get(name, DATA)
            is_packed = name == "forced" or (name == "packed" and "gzip" in self.headers.get("Accept-Encoding", ""))
            body = gzip.compress(body) if is_packed else body
            first = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
            self.send_response(206 if first else 200)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - first))
            if is_packed:
                self.send_header("Content-Encoding", "gzip")
            self.send_header("ETag", f'"{SHA}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if head:
                return
            drops = name in ("dropped", "large") and first == 0
            self.wfile.write(body[first : len(body) // 2 if drops else None])

        def log_message(self, *args):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}", seen
    made.shutdown()
    made.server_close()


def dataset(**source):
    return Dataset(source="s", licence="l", files=[File(path="a/file.bin", sha256=SHA, bytes=len(DATA), **source)])


def test_a_download_is_checked_and_listed(server, tmp_path):
    url, _ = server
    fetch("d", dataset(urls=[f"{url}/whole"]), tmp_path / "fetched.json", None)
    assert (tmp_path / "a/file.bin").read_bytes() == DATA
    assert json.loads((tmp_path / "fetched.json").read_text())["files"] == {
        "a/file.bin": {"sha256": SHA, "bytes": len(DATA)}
    }


def test_a_server_that_compresses_is_asked_not_to(server, tmp_path):
    """Those of CIRR's, FashionIQ's and CIRCO's annotations do: the stated size is then that of the compressed bytes."""
    url, _ = server
    fetch("d", dataset(urls=[f"{url}/packed"]), tmp_path / "d/fetched.json", None)
    assert (tmp_path / "d/a/file.bin").read_bytes() == DATA
    with pytest.raises(ValueError, match="sends the file as gzip, though it was asked for the file as it is"):
        fetch("d", dataset(urls=[f"{url}/forced"]), tmp_path / "e/fetched.json", None)


def test_the_next_source_is_tried(server, tmp_path):
    url, _ = server
    fetch("d", dataset(urls=[f"{url}/missing", f"{url}/altered", f"{url}/whole"]), tmp_path / "fetched.json", None)
    assert (tmp_path / "a/file.bin").read_bytes() == DATA


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing", "404"),
        ("altered", "sha256 is"),
        ("truncated", f"{len(DATA) // 2} bytes, expected {len(DATA)}"),
        ("longer", "more than the expected"),
    ],
)
def test_a_bad_download_leaves_no_file(server, tmp_path, path, reason):
    url, _ = server
    with pytest.raises(ValueError, match=reason):
        fetch("d", dataset(urls=[f"{url}/{path}"]), tmp_path / "fetched.json", None)
    assert not (tmp_path / "a/file.bin").exists()
    assert not (tmp_path / "fetched.json").exists()


def test_an_interrupted_download_is_continued(server, tmp_path):
    url, seen = server
    with pytest.raises(ValueError, match="no source delivered"):
        fetch("d", dataset(urls=[f"{url}/dropped"]), tmp_path / "fetched.json", None)
    fetch("d", dataset(urls=[f"{url}/dropped"]), tmp_path / "fetched.json", None)
    assert (tmp_path / "a/file.bin").read_bytes() == DATA
    assert int(seen[-1][2].removeprefix("bytes=").removesuffix("-")) > len(DATA) // 3


def test_a_file_on_disk_is_adopted_without_a_connection(server, tmp_path):
    url, seen = server
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file.bin").write_bytes(DATA)
    fetch("d", dataset(urls=[f"{url}/whole"]), tmp_path / "fetched.json", None)
    assert not seen


def test_a_wrong_file_on_disk_is_named_and_kept(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file.bin").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"file\.bin has sha256 .* \(4 bytes\), expected .*delete it"):
        fetch("d", dataset(urls=["http://127.0.0.1:9/x"]), tmp_path / "fetched.json", None)
    assert (tmp_path / "a/file.bin").read_bytes() == b"mine"


def test_a_path_can_not_leave_its_folder(tmp_path):
    row = Dataset(source="s", licence="l", files=[File(path="../x", sha256=SHA, bytes=1)])
    with pytest.raises(ValueError, match="leaves"):
        fetch("d", row, tmp_path / "d/fetched.json", None)


def test_a_missing_package_is_named(tmp_path):
    with pytest.raises(ValueError, match="package 'no_such_package' is not installed"):
        fetch("d", dataset(package="no_such_package/x"), tmp_path / "fetched.json", None)


def hub_fetch(url, tmp_path, *files, offline=False, more=()):
    row = json.dumps({"source": "s", "licence": "l", "files": list(files)})
    command = [sys.executable, "-m", "gcl.fetch", "--name", "d", "--dataset", row]
    command += ["--output", str(tmp_path / "data/d/fetched.json"), *more]
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    # The hub's client logs a traceback of each connection that it then resumes.
    assert done.returncode == 0 or "Traceback" not in done.stderr
    return done


def hub_file(name, revision=COMMIT, **more):
    return {"path": "f", "hub": f"org/name@{revision}/{name}", **({"sha256": SHA, "bytes": len(DATA)} | more)}


@pytest.mark.parametrize(("name", "fails"), [("file.bin", False), ("altered", True), ("truncated", True)])
def test_the_hub_is_asked_for_the_pinned_revision(server, tmp_path, name, fails):
    url, seen = server
    done = hub_fetch(url, tmp_path, hub_file(name))
    assert any(COMMIT in path for _, path, _ in seen), done.stderr
    assert done.returncode == int(fails), done.stderr
    assert (tmp_path / "data/d/fetched.json").exists() != fails
    assert (tmp_path / "data/d/f").exists() != fails


def test_altered_weights_do_not_stay_in_the_hubs_cache(server, tmp_path):
    url, seen = server
    for _ in range(2):
        seen.clear()
        assert "has sha256" in hub_fetch(url, tmp_path, hub_file("altered")).stderr
        assert any(method == "GET" for method, *_ in seen)  # downloaded, not taken from the cache


def test_an_interrupted_hub_download_is_continued(server, tmp_path):
    url, seen = server
    sha = hashlib.sha256(LARGE).hexdigest()
    done = hub_fetch(url, tmp_path, hub_file("large", sha256=sha, bytes=len(LARGE)))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data/d/f").read_bytes() == LARGE
    assert any(r and int(r.split("=")[1].split("-")[0]) >= 10_000_000 for method, _, r in seen if method == "GET")


def test_the_hubs_cache_is_enough_offline(server, tmp_path):
    url, seen = server
    assert hub_fetch(url, tmp_path, hub_file("file.bin")).returncode == 0
    (tmp_path / "data/d/f").unlink()
    seen.clear()
    assert hub_fetch("http://127.0.0.1:9", tmp_path, hub_file("file.bin"), offline=True).returncode == 0
    assert not seen
    (tmp_path / "data/d/f").unlink()
    done = hub_fetch("http://127.0.0.1:9", tmp_path, hub_file("other.bin"), offline=True)
    assert done.returncode == 1
    assert "can't get org/name" in done.stderr


REGISTRY = """# all data sets
d:
  source: s  # where from
  licence: l
  files:
    - {path: f, hub: org/name@main/file.bin}
"""


def test_locking_pins_what_the_first_download_had(server, tmp_path):
    url, _ = server
    done = hub_fetch(url, tmp_path, {"path": "f", "hub": "org/name@main/file.bin"})
    assert done.returncode == 0, done.stderr
    assert f"'main' is a branch, now at commit {COMMIT}" in done.stderr
    assert f"no sha256 in config/datasets.yaml; found {SHA}" in done.stderr
    (tmp_path / "datasets.yaml").write_text(REGISTRY)
    done = hub_fetch(url, tmp_path, more=("--lock", "datasets.yaml"))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "datasets.yaml").read_text()
    assert text.startswith("# all data sets")
    assert "# where from" in text
    row = load_yaml(tmp_path / "datasets.yaml")["d"]["files"][0]
    assert row == {"path": "f", "hub": f"org/name@{COMMIT}/file.bin", "bytes": len(DATA), "sha256": SHA}


def test_a_url_without_a_hash_is_fetched_and_reported(server, tmp_path, caplog):
    url, _ = server
    row = Dataset(source="s", licence="l", files=[File(path="f", urls=[f"{url}/whole"])])
    fetch("d", row, tmp_path / "fetched.json", None)
    assert (tmp_path / "f").read_bytes() == DATA
    assert f"found {SHA}" in caplog.text


def test_a_bad_hub_name_is_explained(tmp_path):
    with pytest.raises(ValueError, match="'org/name/file' is not org/name@revision/path"):
        fetch("d", dataset(hub="org/name/file"), tmp_path / "fetched.json", None)
