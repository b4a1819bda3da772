"""The canonical tables that `prepare` writes and every later stage reads.

A prepared folder holds its distinct images and texts once; items and pairs refer to them by row:

    images.parquet   sha256              of the encoded bytes; equal files are one row
    locations.parquet location           where the bytes are, row by row, see images.py
    texts.parquet    text
    pairs.parquet    pair_id, image_row, text_rows             (training data; the first text is the full caption)
    items.parquet    table, item_id, image_rows, text_row, parent_id   (benchmarks; text_row -1: no text)
    qrels.parquet    task, query_id, candidate_id, relevance
    task.json        tasks: name, query and candidate modality, their tables; measures
    rejects.csv      record, path, reason
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NO_TEXT = -1


class Item(NamedTuple):
    """A query or a candidate: a text (or none) and a list of images (none, one, several frames or pages)."""

    item_id: str
    text: str | None
    images: tuple[str, ...]  # locations
    parent_id: str | None = None

    @property
    def modality(self) -> str:
        """image, text or image_text, by what the item has."""
        if self.text is None:
            return "image"
        return "image_text" if self.images else "text"


class Qrel(NamedTuple):
    """A relevant candidate of a query."""

    task: str
    query_id: str
    candidate_id: str
    relevance: int = 1


class Task(NamedTuple):
    """One retrieval task: its queries, and by pool name the tables that are searched together."""

    name: str
    query_modality: str
    candidate_modality: str
    queries: str
    pools: dict[str, list[str]]


class Pair(NamedTuple):
    """An image with its caption; further captions are shorter views of the first."""

    name: str  # in its source, for messages
    image: str  # location
    texts: tuple[str, ...]


class Units:
    """Numbers distinct images and texts in the order in which they are first seen."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        """Take the sha256 of the bytes at every location."""
        self.digests = digests
        self.images: dict[str, int] = {}
        self.locations: list[str] = []
        self.texts: dict[str, int] = {}

    def image(self, location: str) -> int:
        """Return the row of an image."""
        digest = self.digests[location]
        if digest not in self.images:
            self.images[digest] = len(self.locations)
            self.locations.append(location)
        return self.images[digest]

    def text(self, text: str | None) -> int:
        """Return the row of a text, NO_TEXT for none."""
        return NO_TEXT if text is None else self.texts.setdefault(text, len(self.texts))

    def write(self, folder: Path) -> None:
        """Write images.parquet, locations.parquet and texts.parquet."""
        for name, column, values in (
            ("images", "sha256", list(self.images)),
            ("locations", "location", self.locations),
            ("texts", "text", list(self.texts)),
        ):
            pq.write_table(pa.table({column: pa.array(values, pa.string())}), folder / f"{name}.parquet")


def content_id(pair: Pair, digests: Mapping[str, str]) -> str:
    """Name a pair by its content: the same wherever the pair was read from."""
    return hashlib.sha256("\0".join([digests[pair.image], *pair.texts]).encode()).hexdigest()[:16]


def write_pairs(folder: Path, pairs: Iterable[Pair], digests: Mapping[str, str]) -> int:
    """Write a prepared folder of training pairs; return how many."""
    units = Units(digests)
    rows = [(content_id(p, digests), units.image(p.image), [units.text(t) for t in p.texts]) for p in pairs]
    ids, images, texts = zip(*rows, strict=True) if rows else ((), (), ())
    units.write(folder)
    table = pa.table(
        {
            "pair_id": pa.array(ids, pa.string()),
            "image_row": pa.array(images, pa.int64()),
            "text_rows": pa.array(texts, pa.list_(pa.int64())),
        }
    )
    pq.write_table(table, folder / "pairs.parquet")
    return len(rows)


def write_benchmark(
    folder: Path,
    tables: dict[str, list[Item]],
    tasks: list[Task],
    qrels: list[Qrel],
    about: dict[str, Any],
    digests: Mapping[str, str],
) -> None:
    """Write a prepared folder of a benchmark.

    Raises:
        ValueError: an id occurs twice in a table, or a qrel names an unknown query or candidate.
    """
    check_ids(tables, tasks, qrels)
    units = Units(digests)
    rows = [
        (name, i.item_id, [units.image(x) for x in i.images], units.text(i.text), i.parent_id)
        for name, items in tables.items()
        for i in items
    ]
    units.write(folder)
    columns = ("table", "item_id", "image_rows", "text_row", "parent_id")
    kinds = (pa.string(), pa.string(), pa.list_(pa.int64()), pa.int64(), pa.string())
    arrays = (pa.array(v, k) for v, k in zip(zip(*rows, strict=True), kinds, strict=True))
    pq.write_table(pa.table(dict(zip(columns, arrays, strict=True))), folder / "items.parquet")
    pq.write_table(pa.table({f: [q[i] for q in qrels] for i, f in enumerate(Qrel._fields)}), folder / "qrels.parquet")
    text = json.dumps(about | {"tasks": [t._asdict() for t in tasks]}, indent=2, sort_keys=True)
    (folder / "task.json").write_text(text + "\n")


def check_ids(tables: dict[str, list[Item]], tasks: list[Task], qrels: list[Qrel]) -> None:
    """Raise ValueError for duplicate ids, empty tables and qrels that point nowhere."""
    ids = {name: {item.item_id for item in items} for name, items in tables.items()}
    for name, items in tables.items():
        if not items:
            raise ValueError(f"table '{name}' is empty")
        if len(ids[name]) < len(items):
            seen: set[str] = set()
            twice = next(i.item_id for i in items if i.item_id in seen or seen.add(i.item_id))  # type: ignore[func-returns-value]
            raise ValueError(f"id '{twice}' occurs twice in table '{name}'")
    by_task = {task.name: task for task in tasks}
    for qrel in qrels:
        task = by_task[qrel.task]
        if qrel.query_id not in ids[task.queries]:
            raise ValueError(f"qrels of {qrel.task} name query '{qrel.query_id}', which table '{task.queries}' lacks")
        if not any(qrel.candidate_id in ids[table] for tables_ in task.pools.values() for table in tables_):
            raise ValueError(f"qrels of {qrel.task} name candidate '{qrel.candidate_id}', which is in no pool")


def write_rejects(path: Path, rejects: Iterable[tuple[str, str, str]]) -> None:
    """Write rejects.csv: the record's name in its source, its image, and why it was left out."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("record", "path", "reason"), *sorted(rejects)])


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file; a missing, empty or broken one is a ValueError that names it."""
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        size = f"{path.stat().st_size} bytes" if path.exists() else "missing"
        raise ValueError(f"can't read {path} ({size}) as Parquet: {error}; delete it and run again") from error


class Table(NamedTuple):
    """The items of one table in order, as rows into images and texts."""

    ids: list[str]
    image_rows: list[tuple[int, ...]]
    text_rows: list[int]


Combinations = dict[tuple[int, int], int]  # (image row, text row) -> its place among the fused_keys


class PreparedBenchmark(NamedTuple):
    """A benchmark as read back."""

    tasks: list[Task]
    tables: dict[str, Table]
    qrels: dict[str, dict[str, dict[str, int]]]  # task -> query -> candidate -> relevance
    about: dict[str, Any]
    combinations: Combinations


def read_benchmark(folder: Path) -> PreparedBenchmark:
    """Read what write_benchmark wrote."""
    about = json.loads((folder / "task.json").read_text())
    tasks = [Task(**row) for row in about.pop("tasks")]
    columns: dict[str, tuple[list[str], list[tuple[int, ...]], list[int]]] = {}
    for row in read_parquet(folder / "items.parquet").to_pylist():
        ids, images, texts = columns.setdefault(row["table"], ([], [], []))
        ids.append(row["item_id"])
        images.append(tuple(row["image_rows"]))
        texts.append(row["text_row"])
    qrels: dict[str, dict[str, dict[str, int]]] = {task.name: {} for task in tasks}
    for row in read_parquet(folder / "qrels.parquet").to_pylist():
        qrels[row["task"]].setdefault(row["query_id"], {})[row["candidate_id"]] = row["relevance"]
    tables = {name: Table(*c) for name, c in columns.items()}
    combinations = {key: place for place, key in enumerate(fused_keys(folder))}
    return PreparedBenchmark(tasks, tables, qrels, about, combinations)


class PreparedPairs(NamedTuple):
    """Training pairs as read back."""

    image_rows: np.ndarray  # (P,) int64
    text_rows: list[list[int]]  # per pair, the full caption first


def read_pairs(folder: Path) -> PreparedPairs:
    """Read what write_pairs wrote."""
    table = read_parquet(folder / "pairs.parquet")
    return PreparedPairs(table["image_row"].to_numpy(), table["text_rows"].to_pylist())


def fused_keys(folder: Path) -> list[tuple[int, int]]:
    """Return the distinct (image row, text row) that occur together in a prepared folder, sorted."""
    if (folder / "pairs.parquet").exists():
        pairs = read_pairs(folder)
        return sorted({(int(i), t) for i, texts in zip(pairs.image_rows, pairs.text_rows, strict=True) for t in texts})
    table = read_parquet(folder / "items.parquet", ["image_rows", "text_row"])
    items = zip(table["image_rows"].to_pylist(), table["text_row"].to_pylist(), strict=True)
    return sorted({(i, text) for images, text in items if text != NO_TEXT for i in images})
