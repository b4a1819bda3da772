"""Servers on loopback that speak as much of the Hugging Face hub's protocol as a download, or an upload, needs."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[str]:
    """Serve files by their path within any repository; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.reply(False)

        def do_GET(self) -> None:
            self.reply(True)

        def reply(self, with_body: bool) -> None:
            body = files.get(self.path.partition("/resolve/")[2].partition("/")[2])
            if body is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


LARGE = 1000  # bytes from which a file goes by its own request, as git-lfs has it


class Receiver:
    """What a hub was sent."""

    def __init__(self, refuse: bool) -> None:
        self.refuse, self.url = refuse, ""
        self.requests: list[str] = []
        self.created: dict = {}
        self.objects: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}

    def commit(self, lines: bytes) -> None:
        """Keep the files of a commit, inline or by the hash of what was sent before."""
        for line in lines.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.files[value["path"]] = self.objects[value["oid"]]


@contextmanager
def receiving(refuse: bool = False) -> Iterator[Receiver]:
    """Take an upload: make the repository, say how each file is to come, take large ones, commit."""
    hub = Receiver(refuse)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.body()
            hub.requests.append(self.path)
            if hub.refuse:
                return self.answer({"error": "Forbidden"}, 403)
            if self.path.endswith("/repos/create"):
                hub.created = {k: v for k, v in json.loads(data).items() if k in ("name", "organization", "visibility")}
                return self.answer({"url": f"{hub.url}/me/my_model", "name": "me/my_model"})
            if "/preupload/" in self.path:
                files = [
                    {"path": f["path"], "uploadMode": "lfs" if f["size"] >= LARGE else "regular", "shouldIgnore": False}
                    for f in json.loads(data)["files"]
                ]
                return self.answer({"files": files})
            if self.path.endswith("/info/lfs/objects/batch"):
                objects = [
                    o | {"actions": {"upload": {"href": f"{hub.url}/objects/{o['oid']}", "header": {}}}}
                    for o in json.loads(data)["objects"]
                ]
                return self.answer({"transfer": "basic", "objects": objects})
            if "/commit/" in self.path:
                hub.commit(data)
                url = f"{hub.url}/me/my_model/commit/{COMMIT}"
                return self.answer({"success": True, "commitOid": COMMIT, "commitUrl": url})
            return self.answer({}, 200 if "validate-yaml" in self.path else 404)

        def do_PUT(self) -> None:
            data = self.body()
            name = self.path.rpartition("/")[2]
            is_whole = hashlib.sha256(data).hexdigest() == name
            hub.objects[name] = data
            self.answer({}, 200 if is_whole else 400)

        def do_GET(self) -> None:
            found = {"sha": COMMIT, "id": "me/my_model", "siblings": [], "tags": [], "private": False, "name": "me"}
            self.answer(found if "/api/" in self.path else {}, 200)

        def do_HEAD(self) -> None:
            self.do_GET()

        def body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().strip(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def answer(self, value: dict, status: int = 200) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
