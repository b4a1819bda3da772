"""Indexing and searching a collection of one's own, beside the bare parts and other engines.

    python benchmarks/collection.py

CLIP ViT-B/32 with random weights. One text query is timed from its words to the ten best items, the model loaded, with
the same embedding before every engine's search; their candidates are the same, with the calibration folded in.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import lancedb
import numpy as np
import pyarrow as pa

from embedding import write_images, write_model
from gcl.collection.embedder import Embedder, Term, model_hash
from gcl.collection.index import index
from gcl.collection.items import entries_of
from gcl.collection.search import approximate, search_index
from gcl.collection.store import About, open_index, open_table, upsert, write_about, write_scan
from gcl.collection.vectors import folded
from gcl.retrieve.calibration import fit, write_calibration
from measure import Times, arguments, growth, in_turns, status, table, write
from topk import unit_rows

K, WIDTH, QUERIES = 10, 512, 200
SIZES = (10_000, 100_000, 1_000_000)
TEXT = "a drawing of two small dogs that run along the beach"


def fill(folder: Path, n: int, model: Path, centres: int = 0) -> Path:
    """Write an index of n items with random vectors, around some centres if there are any."""
    folder.mkdir()
    embedder = Embedder(model, "cpu")
    rows = open_table(folder, WIDTH)
    write_about(folder, About(str(model), "0", embedder.mode, WIDTH, "random"))
    if embedder.stats is not None:
        write_calibration(folder / "calibration.json", embedder.stats)
    for start in range(0, n, 50_000):
        some = range(start, min(n, start + 50_000))
        texts = {name: [f"{name} {k}" for k in some] for name in ("id", "path", "text", "content", "stamp")}
        modalities = [("image", "text", "image_text")[k % 3] for k in some]
        upsert(
            rows, texts | {"modality": modalities, "thumbnail": [b""] * len(some)}, unit_rows(len(some), start, centres)
        )
    write_scan(folder, rows, WIDTH)
    return folder


def engines(folder: Path, model: Path) -> dict[str, Callable[[], object]]:
    """Return a query's way through each engine, from its text to its ten items."""
    embedder, opened = Embedder(model, "cpu", ["text"]), open_index(folder)
    vectors = folded(opened, "text")(slice(0, len(opened.items)))
    flat = faiss.IndexFlatIP(WIDTH + 1)
    flat.add(vectors)
    base = lancedb.connect(folder.with_suffix(".lance"))
    stored = base.create_table("x", opened.items.append_column("vector", fixed(vectors)))

    def embed() -> np.ndarray:
        return np.append(embedder.query([Term(1.0, text=TEXT)]).vectors[0], np.float32(1))

    return {
        "embedding alone": embed,
        "ours": lambda: search_index(opened, embedder.query([Term(1.0, text=TEXT)]), K),
        "FAISS, flat": lambda: flat.search(embed()[None], K),
        "LanceDB, flat": lambda: stored.search(embed()).distance_type("dot").limit(K).to_arrow(),
    }


def fixed(vectors: np.ndarray) -> Any:
    """Return vectors as a column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def one_query(folder: Path, model: Path, repeats: int) -> dict[str, Any]:
    """Time one query over growing indexes."""
    rows = []
    for n in SIZES[:2]:
        by_engine = in_turns(engines(fill(folder / f"{n}", n, model), model), repeats)
        ours = by_engine["ours"]
        for name, times in by_engine.items():
            rows.append([f"{n:,}", name, times.shown(), "" if name == "ours" else ours.over(times)])
    caption = f"One text query, from its words to the {K} best of items of {WIDTH} numbers; last, our time over theirs."
    return table(caption, ["items", "engine", "time", "ours / it"], rows)


def recall(folder: Path, model: Path, repeats: int) -> dict[str, Any]:
    """Compare LanceDB's index with the exact search, where items lie in clusters as real ones do."""
    embedder, n = Embedder(model, "cpu", ["text"]), SIZES[1]
    opened = open_index(fill(folder / "clustered", n, model, n // 100))
    queries = [embedder.query_of(vector, "text") for vector in near(opened.vectors[:: n // QUERIES])]
    approximate(opened, queries[0], K, None, None)  # makes the index
    shares = []
    for query in queries:
        best, some = (
            {hit.row for hit in hits}
            for hits in (search_index(opened, query, K), approximate(opened, query, K, None, None))
        )
        shares.append(len(best & some) / K)
    times = in_turns(
        {
            "exact": lambda: [search_index(opened, query, K) for query in queries[:10]],
            "approximate": lambda: [approximate(opened, query, K, None, None) for query in queries[:10]],
        },
        repeats,
    )
    rows = [
        [name, Times([seconds / 10 for seconds in times[name].seconds]).shown(), share]
        for name, share in (("exact", "1"), ("approximate", f"{np.mean(shares):.3f}"))
    ]
    caption = (
        f"{n:,} items in {n // 100:,} clusters, {len(queries)} queries near items: a query's time and recall at {K}."
    )
    return table(caption, ["search", "time", "recall"], rows)


def near(vectors: np.ndarray) -> np.ndarray:
    """Return unit vectors near given ones."""
    moved = vectors + 0.5 * unit_rows(len(vectors), 9)
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def indexing(folder: Path, model: Path, paths: list[str], repeats: int) -> dict[str, Any]:
    """Time indexing of pictures beside the bare session on decoded pixels, and of a few more beside many."""
    embedder = Embedder(model, "cpu")
    source, encoder = Path(paths[0]).parent, embedder.model.encoder
    pixels = [embedder.model.pixels(path) for path in paths[: 16 * encoder.batch]]
    batches = [np.stack(pixels[i : i + encoder.batch]) for i in range(0, len(pixels), encoder.batch)]
    count = iter(range(10**6))
    works = {
        "bare": lambda: [encoder.image.run(None, {"pixels": batch}) for batch in batches],
        "index": lambda: index(source, model, folder / f"index{next(count)}", "cpu"),
    }
    times = in_turns(works, repeats)
    bare = Times([seconds / len(pixels) for seconds in times["bare"].seconds])
    whole = Times([seconds / len(paths) for seconds in times["index"].seconds])
    rows = [
        ["the bare ONNX session, decoded pixels in memory", bare.shown(), ""],
        [f"`gcl index` of {len(paths)} pictures of 640 x 480", whole.shown(), bare.over(whole)],
    ]
    caption = "Time for a picture; last, the share of the bare session's rate that is reached."
    return table(caption, ["what", "time", "share"], rows)


def adding(folder: Path, model: Path, paths: list[str], repeats: int) -> dict[str, Any]:
    """Time what a run costs that finds nothing new, and one that finds ten new pictures."""
    source = folder / "many"
    source.mkdir()
    for k in range(10_000):
        (source / f"{k}.txt").write_text(f"text number {k}", encoding="utf-8")
    n = prefill(source.resolve(), model, folder / "growing")
    seconds: dict[str, list[float]] = {"nothing new": [], "ten new pictures": []}
    embedded = []
    for turn in range(repeats):
        for name, times in seconds.items():
            if name != "nothing new":
                for path in paths[10 * turn : 10 * turn + 10]:
                    (source / f"picture{Path(path).name}").symlink_to(path)
            started = time.perf_counter()
            embedded.append(index(source, model, folder / "growing", "cpu")["counts"]["embedded"])
            times.append(time.perf_counter() - started)
    rows = [
        [name, Times(times).shown(), ", ".join(map(str, sorted(set(embedded[k::2]))))]
        for k, (name, times) in enumerate(seconds.items())
    ]
    caption = f"Bringing an index of {n:,} items up to date, the model's opening included."
    return table(caption, ["what", "time", "items embedded"], rows)


def prefill(source: Path, model: Path, folder: Path) -> int:
    """Write the index of a folder with random vectors in place of its items' own, which would take a while."""
    folder.mkdir()
    entries, rows = list(entries_of(source)), open_table(folder, WIDTH)
    columns = {
        "id": [entry.item_id for entry in entries],
        "modality": [entry.modality for entry in entries],
        "path": [entry.image or "" for entry in entries],
        "text": [entry.text or "" for entry in entries],
        "content": [entry.content() for entry in entries],
        "stamp": [entry.stamp for entry in entries],
        "thumbnail": [b""] * len(entries),
    }
    upsert(rows, columns, unit_rows(len(entries), 0))
    write_about(folder, hashed(folder, model.resolve(), str(source)))
    return len(entries)


def cold(folder: Path, model: Path, repeats: int) -> dict[str, Any]:
    """Time `gcl search` as a process, with the index and the model in the system's cache."""
    rows = []
    for n in SIZES[:2]:
        command = [sys.executable, "-m", "gcl.collection.search", str(folder / f"{n}"), "--text", TEXT]
        (folder / f"{n}/index.json").unlink()
        write_about(folder / f"{n}", hashed(folder / f"{n}", model))
        times = in_turns({"search": lambda c=command: subprocess.run(c, check=True, capture_output=True)}, repeats)
        rows.append([f"{n:,}", times["search"].shown()])
    return table("`gcl search --text`, a process of its own.", ["items", "time"], rows)


def hashed(folder: Path, model: Path, source: str = "random") -> About:
    """Return what index.json says, with the model's own hash."""
    return About(str(model), model_hash(model, folder / "model.json"), "center_zscore", WIDTH, source)


def memory(folder: Path, model: Path) -> dict[str, Any]:
    """Measure what a search takes beyond the open model, in a process of its own."""
    rows = []
    for n in SIZES:
        place = folder / f"{n}"
        if not place.exists():
            fill(place, n, model)
        command = [sys.executable, __file__, "--memory", f"{place}::{model}"]
        own, mapped = subprocess.check_output(command).decode().split()[-2:]
        rows.append([f"{n:,}", f"{float(own):.0f} MB", f"{float(mapped):.0f} MB"])
    caption = "Memory that one search adds to the open model: its own, and pages that the system may take back."
    return table(caption, ["items", "its own", "mapped pages"], rows)


def measure_memory(what: str) -> None:
    """Search once; print MB of growth, of the process's own memory at its peak and of mapped files."""
    folder, _, model = what.partition("::")
    embedder = Embedder(Path(model), "cpu", ["text"])
    query = embedder.query([Term(1.0, text=TEXT)])
    held = []  # so that what is mapped stays so until it is measured
    mapped = status("RssFile")
    peak = growth(lambda: held.append(open_index(Path(folder))) or search_index(held[0], query, K))  # type: ignore[func-returns-value]
    mapped = (status("RssFile") - mapped) / 1024
    print(max(0.0, peak - mapped), mapped)


def main() -> None:
    """Measure everything."""
    given = arguments(__doc__, repeats=7, memory="")
    if given.memory:
        measure_memory(given.memory)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models, _ = write_model(folder / "models", "ViT-B-32-quickgelu")
        model = models / "fp32"
        vectors = unit_rows(2000, 5)
        write_calibration(model / "calibration.json", fit(vectors[:1000], vectors[1000:], "sum_raw"))
        paths = write_images(folder / "images", 1000, (640, 480))
        tables = [one_query(folder, model, given.repeats)]
        tables.append(recall(folder, model, given.repeats))
        tables.append(indexing(folder, model, paths, min(given.repeats, 3)))
        tables.append(adding(folder, model, paths, min(given.repeats, 5)))
        tables.append(cold(folder, model, given.repeats))
        tables.append(memory(folder, model))
        shutil.rmtree(folder / "images")
    write("collection", "A collection of one's own", tables)


if __name__ == "__main__":
    main()
