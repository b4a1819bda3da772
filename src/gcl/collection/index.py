"""Make a folder or a table of images and texts searchable, or bring its index up to date.

In:  a folder, or a .csv, .tsv, .jsonl or .parquet file; a model folder that `bundle` wrote.
Out: an index (collection/store.py). What is there already is not embedded again: items are known by their content.
     Killed at any moment, the same command goes on. What can't be used is listed in rejects.csv.
"""

import io
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from gcl.collection.embedder import Embedder, model_hash
from gcl.collection.items import Entry, entries_of
from gcl.collection.store import About, among, batches, open_table, read_about, upsert, write_about, write_scan
from gcl.common.arrays import Floats
from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, locked, sweep
from gcl.common.progress import progress
from gcl.data.images import MARGIN, open_image, to_array
from gcl.data.records import write_rejects
from gcl.retrieve.calibration import write_calibration

log = logging.getLogger(__name__)

CHUNK = 64  # items that are decoded ahead and embedded together
COMMIT = 256  # items that are written together: what a kill may cost
THUMBNAIL = 160  # pixels of the longer side
AT_ONCE = 500  # ids in one condition


class Known(NamedTuple):
    """What the table has of an item."""

    stamp: str
    content: str


class Ready(NamedTuple):
    """An item that is decoded."""

    entry: Entry
    content: str
    pixels: Floats | None
    thumbnail: bytes


class Counts(NamedTuple):
    """What came of the items."""

    added: int
    updated: int
    removed: int
    kept: int
    rejected: int
    embedded: int  # the rest of those added or updated was known under another name


def decoded(entry: Entry, embedder: Embedder) -> Ready:
    """Read and decode an item, with a small picture for pages.

    Raises:
        UserError: its image can't be read.
    """
    content = entry.content()
    if entry.image is None:
        return Ready(entry, content, None, b"")
    how = embedder.model.encoder.preprocess
    image = open_image(entry.image, MARGIN * how.size, upright=True)
    pixels = to_array(image, how)
    return Ready(entry, content, pixels, small(image))


def small(image: Image.Image) -> bytes:
    """Encode a picture at the size of a page's tiles."""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def chunks(entries: list[Entry], embedder: Embedder) -> Iterator[list[tuple[Entry, Ready | None, str]]]:
    """Yield items decoded or with what is wrong, some at a time, while the next are being decoded."""

    def attempt(entry: Entry) -> tuple[Entry, Ready | None, str]:
        try:
            return entry, decoded(entry, embedder), ""
        except (OSError, ValueError) as error:
            return entry, None, str(error)

    with ThreadPoolExecutor() as pool:
        waiting: list[list[Future[Any]]] = []
        for start in range(0, len(entries) + CHUNK, CHUNK):
            if some := entries[start : start + CHUNK]:
                waiting.append([pool.submit(attempt, entry) for entry in some])
            if waiting and (len(waiting) > 1 or not some):
                yield [future.result() for future in waiting.pop(0)]


def survey(source: Path, table: Any) -> tuple[dict[str, Entry], dict[str, Known], list[tuple[str, str, str]]]:
    """Return what lies there, what the table has, and what can't be used."""
    known: dict[str, Known] = {}
    for batch in batches(table, ["id", "stamp", "content"]):
        columns = (batch[name].to_pylist() for name in ("id", "stamp", "content"))
        known |= {item_id: Known(stamp, content) for item_id, stamp, content in zip(*columns, strict=True)}
    items, rejects = {}, []
    for entry in progress(entries_of(source), "look", "item"):
        if entry.fault:
            rejects.append((entry.item_id, entry.image or "", entry.fault))
        else:
            items[entry.item_id] = entry
    return items, known, rejects


def bring_up_to_date(source: Path, folder: Path, embedder: Embedder, table: Any) -> Counts:
    """Embed what is new or was edited, take what was renamed from where it was, and remove what is gone."""
    items, known, rejects = survey(source, table)
    fresh = [entry for name, entry in items.items() if name not in known or known[name].stamp != entry.stamp]
    contents = {row.content for row in known.values()}
    waiting: list[tuple[Ready, Floats]] = []
    added = updated = embedded = 0
    for chunk in progress(chunks(fresh, embedder), f"embed ({CHUNK} items each)", "chunk", -(-len(fresh) // CHUNK)):
        rejects += [(entry.item_id, entry.image or "", why) for entry, _, why in chunk if why]
        ready = [item for _, item, _ in chunk if item is not None]
        have = vectors_by_content(table, {item.content for item in ready} & contents)
        unknown = [item for item in ready if item.content not in have]
        waiting += zip(unknown, embed(unknown, embedder), strict=True)
        waiting += [(item, have[item.content]) for item in ready if item.content in have]
        added += sum(item.entry.item_id not in known for item in ready)
        updated += sum(i.entry.item_id in known and known[i.entry.item_id].content != i.content for i in ready)
        embedded += len(unknown)
        if len(waiting) >= COMMIT:
            write(table, waiting)
            waiting = []
    write(table, waiting)
    bad = {name for name, *_ in rejects}
    gone = [name for name in known if name not in items or name in bad]
    for start in range(0, len(gone), AT_ONCE):
        table.delete(among("id", gone[start : start + AT_ONCE]))
    with atomic_path(folder / "rejects.csv") as path:
        write_rejects(path, rejects)
    return Counts(added, updated, len(gone), len(known) - len(gone) - updated, len(rejects), embedded)


def embed(ready: list[Ready], embedder: Embedder) -> Floats:
    """Return the (n, D) unit vectors of decoded items."""
    if not ready:
        return np.empty((0, embedder.model.width), np.float32)
    raw = embedder.model.outputs_of([item.pixels for item in ready], [item.entry.text for item in ready])
    return embedder.of_outputs(raw)


def vectors_by_content(table: Any, contents: set[str]) -> dict[str, Floats]:
    """Return the vectors that the table has now of some contents, whatever their names.

    A name may stand for another content since this run began, so names are not asked for.
    """
    if not contents:
        return {}
    rows = table.search().where(among("content", sorted(contents))).select(["content", "vector"]).to_arrow()
    return dict(zip(rows["content"].to_pylist(), rows["vector"].to_numpy(zero_copy_only=False), strict=True))


def write(table: Any, items: list[tuple[Ready, Floats]]) -> None:
    """Write items to the table, all at once."""
    if not items:
        return
    entries = [item.entry for item, _ in items]
    rows: dict[str, list[Any]] = {
        "id": [entry.item_id for entry in entries],
        "modality": [entry.modality for entry in entries],
        "path": [entry.image or "" for entry in entries],
        "text": [entry.text or "" for entry in entries],
        "content": [item.content for item, _ in items],
        "stamp": [entry.stamp for entry in entries],
        "thumbnail": [item.thumbnail for item, _ in items],
    }
    upsert(table, rows, np.stack([vector for _, vector in items]))


def index(source: Path, model: Path, output: Path, device: str) -> dict[str, Any]:
    """Make or update an index.

    Raises:
        UserError: no such source or model, an index of another model or source, or another process at work on it.
    """
    if output.exists() and not (output / "index.json").exists() and any(output.iterdir()):
        raise UserError(f"{output} holds other things than an index; give a folder that is empty or not there")
    source, model = source.resolve(), model.resolve()  # a search may be started elsewhere
    output.mkdir(parents=True, exist_ok=True)
    with locked(output / ".lock", wait=False):
        sweep(output)
        sha256 = model_hash(model, output / "model.json")
        embedder = Embedder(model, device)
        about = About(str(model), sha256, embedder.mode, embedder.model.width, str(source), late=embedder.model.late)
        check_same(output, about)
        table = open_table(output, about.width)
        if embedder.stats is not None:
            write_calibration(output / "calibration.json", embedder.stats)
        write_about(output, about)
        counts = bring_up_to_date(source, output, embedder, table)
        if counts.added + counts.updated + counts.removed:
            table.optimize()
        write_scan(output, table, about.width)
    print(", ".join(f"{number} {name}" for name, number in counts._asdict().items()))
    if counts.rejected:
        log.warning("%d items can't be used: %s says why", counts.rejected, output / "rejects.csv")
    return {"counts": counts._asdict()}


def check_same(folder: Path, about: About) -> None:
    """Refuse to mix vectors of different models, or items of different places, in one index."""
    if not (folder / "index.json").exists():
        return
    before = read_about(folder)
    if (before.sha256, before.mode) != (about.sha256, about.mode):
        raise UserError(
            f"{folder} was made with the model {before.model}, which is another than {about.model} is now; vectors of "
            "different models do not compare: give another --output, or delete it"
        )
    if before.source != about.source:
        raise UserError(f"{folder} is the index of {before.source}, not of {about.source}; give another --output")


def main() -> None:
    """Run from the command line."""
    options = parser("index", __doc__, "photos --model model --output photos.index")
    options.add_argument("source", type=Path, metavar="FOLDER|TABLE", help="images, texts, and pairs of both")
    options.add_argument("--model", required=True, type=Path, help="folder that `bundle` wrote")
    options.add_argument("--output", required=True, type=Path, metavar="INDEX", help="folder of the index")
    options.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="(auto)")
    run(options, index)


if __name__ == "__main__":
    main()
