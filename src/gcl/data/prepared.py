"""A prepared benchmark as later stages read it: what items.py wrote, as arrays."""

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gcl.common.arrays import Ints
from gcl.common.errors import UserError
from gcl.common.names import lookup
from gcl.common.rows import made_by, mapping, parse
from gcl.data.items import Task
from gcl.data.records import NO_TEXT, read_parquet


class Table(NamedTuple):
    """The items of one table in order, as rows into images and texts: arrays, since a pool may have millions."""

    ids: pa.StringArray
    image_rows: pa.ListArray  # of int64
    text_rows: Ints
    weights: pa.ListArray  # of float32, an empty list where images weigh alike
    places: pa.ListArray  # of int32, an empty list where images come first

    def first(self, n: int) -> "Table":
        """Return the first n items."""
        return Table(*(column[:n] for column in self))


Lists = dict[tuple[str, str], dict[str, NDArray[np.int32]]]  # (task, pool) -> query -> rows of the pool


class PreparedBenchmark(NamedTuple):
    """A benchmark as read back."""

    tasks: list[Task]
    tables: dict[str, Table]
    qrels: dict[str, dict[str, dict[str, int]]]  # task -> query -> candidate -> relevance
    lists: Lists
    excluded: dict[str, dict[str, set[str]]]  # task -> query -> candidates
    missing: dict[str, list[str]]  # task -> queries that count as misses
    answers: dict[str, dict[str, list[str]]]  # task that is judged by them -> query -> answers
    about: dict[str, Any]

    @property
    def clusters(self) -> tuple[int, ...]:
        """Return the cluster of each query of a table, in order, where queries hang together; else nothing."""
        return tuple(self.about.get("clusters", ()))

    def queries(self, task: Task) -> list[str]:
        """Return the ids of a task's queries, in order."""
        ids: list[str] = self.tables[task.queries].ids.to_pylist()
        return ids

    def pool_ids(self, task: Task, pool: str) -> pa.ChunkedArray:
        """Return the ids of a pool's candidates, in order."""
        return pa.chunked_array([self.tables[name].ids for name in task.pools[pool]])


def read_benchmark(folder: Path, lists: bool = False) -> PreparedBenchmark:
    """Read what write_benchmark wrote; the lists, which may be large, only on request.

    Raises:
        UserError: a file is missing or broken.
    """
    with made_by("prepare", folder):
        return read_files(folder, lists)


def read_files(folder: Path, lists: bool) -> PreparedBenchmark:
    """Read the files of a prepared benchmark."""
    about = mapping(json.loads((folder / "task.json").read_text(encoding="utf-8")), str(folder / "task.json"))
    tasks = [parse(Task, row, str(folder / "task.json")) for row in about.pop("tasks")]
    qrels: dict[str, dict[str, dict[str, int]]] = {task.name: {} for task in tasks}
    for task, query, candidate, relevance in columns(folder / "qrels.parquet"):
        qrels[task].setdefault(query, {})[candidate] = relevance
    excluded: dict[str, dict[str, set[str]]] = {task.name: {} for task in tasks}
    for task, query, candidates in columns(folder / "excluded.parquet"):
        excluded[task][query] = set(candidates)
    missing: dict[str, list[str]] = {task.name: [] for task in tasks}
    for task, query in columns(folder / "missing.parquet"):
        missing[task].append(query)
    answers: dict[str, dict[str, list[str]]] = {}
    for task, query, own in columns(folder / "answers.parquet"):
        answers.setdefault(task, {})[query] = own
    bench = PreparedBenchmark(tasks, read_tables(folder), qrels, {}, excluded, missing, answers, about)
    check_tables(bench, folder)
    return bench._replace(lists=check_listed(bench, read_lists(folder), folder)) if lists else bench


def check_tables(bench: PreparedBenchmark, folder: Path) -> None:
    """Raise ValueError if a task names a table or a pool that isn't there."""
    for name, table in bench.tables.items():
        if table.text_rows.min() < NO_TEXT or table.image_rows.flatten().to_numpy().min(initial=0) < 0:
            raise UserError(f"{folder}/items.parquet: table '{name}' has negative rows")
    for task in bench.tasks:
        for name in (task.queries, *(name for names in task.pools.values() for name in names)):
            lookup(bench.tables, name, f"table of task {task.name}", str(folder / "items.parquet"))
        for pool in task.listed:
            lookup(task.pools, pool, f"listed pool of task {task.name}", str(folder / "task.json"))
        if not task.pools or not all(task.pools.values()):
            raise UserError(f"{folder}/task.json: task {task.name} has no pool, or one without tables")


def check_listed(bench: PreparedBenchmark, lists: Lists, folder: Path) -> Lists:
    """Return the lists; raise ValueError if a query has none, or one that names a row that its pool lacks."""
    for task in bench.tasks:
        for pool in task.listed:
            size, own = len(bench.pool_ids(task, pool)), lists.get((task.name, pool), {})
            for query in bench.queries(task):
                rows = own.get(query)
                if rows is None or not len(rows) or rows.min() < 0 or rows.max() >= size:
                    raise UserError(
                        f"{folder}/lists.parquet: query '{query}' of {task.name} has no list of rows of {pool}"
                    )
    return lists


def columns(path: Path) -> Iterable[tuple[Any, ...]]:
    """Yield the rows of a small table as tuples."""
    table = read_parquet(path)
    return zip(*(table[name].to_pylist() for name in table.column_names), strict=True)


def read_tables(folder: Path) -> dict[str, Table]:
    """Read items.parquet, a table at a time."""
    items = read_parquet(folder / "items.parquet", dictionary=["table"])
    names = items["table"].combine_chunks()
    edges = [0, *(1 + np.flatnonzero(np.diff(names.indices.to_numpy()))).tolist(), len(names)]
    tables = {}
    for start, stop in pairwise(edges):
        part = items.slice(start, stop - start)
        lists = ("item_id", "image_rows", "weights", "places")
        ids, images, weights, places = (part[name].combine_chunks() for name in lists)
        tables[names[start].as_py()] = Table(ids, images, part["text_row"].to_numpy(), weights, places)
    del items, part
    pa.default_memory_pool().release_unused()  # pools of millions: what reading took besides
    return tables


def read_lists(folder: Path) -> Lists:
    """Read lists.parquet; the rows stay in one array."""
    table = read_parquet(folder / "lists.parquet").combine_chunks()
    lists: Lists = {}
    if not len(table):
        return lists
    column = table["candidate_rows"].chunk(0)
    rows, ends = column.values.to_numpy(), column.offsets.to_numpy()
    keys = zip(*(table[name].to_pylist() for name in ("task", "pool", "query_id")), strict=True)
    for i, (task, pool, query) in enumerate(keys):
        lists.setdefault((task, pool), {})[query] = rows[ends[i] : ends[i + 1]]
    return lists
