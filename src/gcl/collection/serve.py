"""Serve an index as a page and as a JSON API, on this machine alone unless told otherwise.

In:  an index (`gcl index`), with its model.
Out: http://127.0.0.1:8000: a page to search by a text, a picture, or both; /docs describes the API. An index that is
     brought up to date meanwhile is read anew. Requests of other hosts' pages are refused.
"""

import io
import logging
import secrets
import socket
import threading
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from PIL import Image

from gcl.collection.embedder import CALIBRATED, Embedder, Term
from gcl.collection.search import Hit, open_embedder, search_index
from gcl.collection.store import Index, is_current, open_index, open_table, thumbnail_of
from gcl.common.arrays import MODALITIES
from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.data.images import loaded, open_image, to_rgb, turned_upright
from gcl.retrieve.exact import Query

log = logging.getLogger(__name__)

MAX_UPLOAD = 20_000_000  # bytes
MAX_PIXELS = 50_000_000
MAX_TEXT = 10_000  # characters
MAX_HITS = 500
LARGE = 1600  # pixels of the longer side, of a picture that is looked at
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' blob: data:; script-src 'nonce-{0}'; style-src 'nonce-{0}'"
)


class Opened(NamedTuple):
    """An index as it is now, and the table that has its small pictures."""

    contents: Index
    table: Any


class Service:
    """An index and its model, opened once; what a page asks for."""

    def __init__(self, folder: Path, model: Path | None, device: str) -> None:
        """Open both.

        Raises:
            UserError: no such index, or another model's.
        """
        self.folder, self.lock = folder, threading.Lock()
        self.opened = self.open()
        self.embedder: Embedder = open_embedder(self.opened.contents, model, device, [*MODALITIES])

    def open(self) -> Opened:
        """Open the index."""
        return Opened(open_index(self.folder), open_table(self.folder))

    def now(self) -> Opened:
        """Return the index, opened anew if it has changed."""
        with self.lock:
            if not is_current(self.folder) or not same_scan(self.opened.contents):
                self.opened = self.open()
            return self.opened

    def about(self) -> dict[str, Any]:
        """Say what is there."""
        index = self.now().contents
        counts = {m: int((index.modalities == code).sum()) for code, m in enumerate(MODALITIES)}
        return {"items": len(index.items), "modalities": counts, "calibrated": index.about.mode == CALIBRATED}

    def query(self, text: str, image: bytes | None) -> Query:
        """Embed a query.

        Raises:
            UserError: an empty query, a text that is too long, or a picture that can't be decoded or is too large.
        """
        if len(text) > MAX_TEXT:
            raise UserError(f"the text has {len(text)} characters, more than {MAX_TEXT}")
        terms = [Term(1.0, text=text.strip())] if text.strip() else []
        if image:
            terms.append(Term(1.0, image=picture_of(image)))
        with self.lock:  # a tokenizer is told anew how to pad
            return self.embedder.query(terms)

    def like(self, row: int) -> Query:
        """Return the query of an item that is there.

        Raises:
            UserError: there is no such item.
        """
        index = self.now().contents
        check_row(index, row)
        return self.embedder.query_of(index.vectors[row], MODALITIES[index.modalities[row]])

    def search(self, query: Query, k: int, modalities: list[str] | None, min_score: float | None) -> list[Hit]:
        """Search."""
        if not 1 <= k <= MAX_HITS:
            raise UserError(f"k is {k}, expected 1 to {MAX_HITS}")
        return search_index(self.now().contents, query, k, modalities, min_score)

    def picture(self, row: int, is_small: bool) -> bytes:
        """Return an item's picture as JPEG, from the table or, as large as a page needs it, from where it lies.

        Raises:
            UserError: there is no such item, or it has no picture that can be read.
        """
        index, table = self.now()
        check_row(index, row)
        item = index.items.slice(row, 1).to_pylist()[0]
        if not item["path"]:
            raise UserError(f"item {row} has no picture")
        if is_small:
            return thumbnail_of(table, item["id"])
        image = open_image(item["path"], LARGE, upright=True)
        image.thumbnail((LARGE, LARGE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        return buffer.getvalue()


def same_scan(index: Index) -> bool:
    """Tell whether the files of an open index are still those of its folder."""
    return (index.folder / "scan/version.json").stat().st_mtime_ns == index.opened_ns


def check_row(index: Index, row: int) -> None:
    """Raise UserError if there is no such row."""
    if not 0 <= row < len(index.items):
        raise UserError(f"there is no item {row}")


def picture_of(data: bytes) -> Image.Image:
    """Decode an upload.

    Raises:
        UserError: it is too large, or no picture.
    """
    if len(data) > MAX_UPLOAD:
        raise UserError(f"the picture has more than {MAX_UPLOAD:,} bytes")
    image = loaded(data, "that was given", 0, MAX_PIXELS)
    return to_rgb(turned_upright(image, "that was given"), "that was given")


def application(service: Service, hosts: list[str]) -> Any:
    """Make the web application; `hosts` are the names by which it may be called."""
    from fastapi import FastAPI, File, Form, Request, UploadFile
    from fastapi.responses import HTMLResponse, JSONResponse, Response

    app = FastAPI(title="gcl search", version="1", docs_url=None, redoc_url=None)
    pages = {name: (Path(__file__).parent / f"{name}.html").read_text(encoding="utf-8") for name in ("page", "docs")}

    @app.middleware("http")
    async def guard(request: Request, call_next: Any) -> Any:
        """Refuse names that are not ours (DNS rebinding), pages of others, and bodies that are too large."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if host not in hosts or (origin is not None and origin.partition("://")[2] != host):
            return JSONResponse({"error": f"refused: this page is {hosts[0]}, not {origin or host}"}, 403)
        length = request.headers.get("content-length", "0")
        if request.method == "POST" and (not length.isdigit() or int(length) > MAX_UPLOAD + 100_000):
            return JSONResponse({"error": f"the request has more than {MAX_UPLOAD:,} bytes"}, 413)
        return await call_next(request)

    @app.exception_handler(UserError)
    async def explain(request: Request, error: UserError) -> JSONResponse:
        """Turn what is the asker's to mend into a message."""
        return JSONResponse({"error": str(error)}, 400)

    def shown(name: str) -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        headers = {"Content-Security-Policy": POLICY.format(nonce), "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(pages[name].replace("NONCE", nonce), headers=headers)

    @app.get("/", include_in_schema=False)
    def page() -> HTMLResponse:
        return shown("page")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return shown("docs")

    @app.get("/api/about")
    def about() -> dict[str, Any]:
        """How many items there are, of which modalities, and whether scores are z-scores."""
        return service.about()

    @app.post("/api/search")
    def search(
        text: Annotated[str, Form(description="a text, alone or beside the image")] = "",
        image: Annotated[UploadFile | None, File(description="a picture, alone or beside the text")] = None,
        like: Annotated[int | None, Form(description="the row of an item: find what is like it")] = None,
        modality: Annotated[list[str] | None, Form(description="image, text, image_text; none: all")] = None,
        k: Annotated[int, Form(description=f"items at most, up to {MAX_HITS}")] = 50,
        min_score: Annotated[float | None, Form(description="what scores below is no match")] = None,
    ) -> dict[str, Any]:
        """The best items, exactly: [{score, id, modality, path, text, row}]."""
        if odd := [name for name in modality or [] if name not in MODALITIES]:
            raise UserError(f"modality is {odd[0]!r}, expected one of {', '.join(MODALITIES)}")
        data = image.file.read(MAX_UPLOAD + 1) if image else None
        query = service.query(text, data) if like is None else service.like(like)
        return {"hits": [hit._asdict() for hit in service.search(query, k, modality, min_score)]}

    @app.get("/api/thumbnail/{row}", response_class=Response)
    def thumbnail(row: int) -> Response:
        """A small picture of an item, as JPEG."""
        return Response(service.picture(row, True), media_type="image/jpeg")

    @app.get("/api/picture/{row}", response_class=Response)
    def picture(row: int) -> Response:
        """The picture of an item, as JPEG."""
        return Response(service.picture(row, False), media_type="image/jpeg")

    return app


def serve(folder: Path, host: str, port: int, model: Path | None, device: str) -> None:
    """Serve until interrupted.

    Raises:
        UserError: no such index, another model's, a port that is taken, or FastAPI is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise UserError("the page needs FastAPI and uvicorn; `pip install 'gcl-retrieval[search]'` has them") from error
    try:
        listening = socket.create_server(
            (host.strip("[]"), port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except (OSError, OverflowError) as error:
        raise UserError(f"can't listen on {host}, port {port}: {error}; is it free, and this machine's?") from error
    service = Service(folder, model, device)
    names = LOOPBACK if host in LOOPBACK else (host, *LOOPBACK)
    app = application(service, [f"{name}:{port}" for name in names])
    log.info("http://%s:%d", host, port)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


def main() -> None:
    """Run from the command line."""
    options = parser("serve", __doc__, "photos.index")
    options.add_argument("folder", type=Path, metavar="INDEX", help="folder that `index` wrote")
    options.add_argument("--host", default="127.0.0.1", help="name or address to be reached by (127.0.0.1)")
    options.add_argument("--port", type=int, default=8000, help="(8000)")
    options.add_argument("--model", type=Path, help="where the model is now, if not where it was")
    options.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="of the model (auto)")
    run(options, serve)


if __name__ == "__main__":
    main()
