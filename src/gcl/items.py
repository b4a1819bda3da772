"""The canonical tables of a benchmark, whatever it was: after `prepare` no stage knows which one it is.

Beside the images and texts of records.py a prepared benchmark holds:

    items.parquet     table, item_id, image_rows, weights, text_row, parent_id     (text_row -1: no text)
    qrels.parquet     task, query_id, candidate_id, relevance
    lists.parquet     task, pool, query_id, candidate_rows    pools that are a list of candidates per query
    excluded.parquet  task, query_id, candidate_ids           candidates that are not ranked for a query
    missing.parquet   task, query_id          queries that could not be used: they count as misses
    task.json         tasks: name, query and candidate modality, their tables, facts; measures
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gcl.records import NO_TEXT, Ints, Units, read_parquet
from gcl.registry import lookup
from gcl.strict import made_by, mapping, parse


class Item(NamedTuple):
    """A query or a candidate: a text (or none) and a list of images (none, one, several frames or pages)."""

    item_id: str
    text: str | None
    images: tuple[str, ...]  # locations
    parent_id: str | None = None
    weights: tuple[float, ...] = ()  # of several images, sum 1; none: equal

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
    listed: tuple[str, ...] = ()  # pools of which each query ranks its own list only
    dataset: str | None = None  # tasks of one data set are averaged before data sets are
    groups: tuple[str, ...] = ()  # each has a mean of its own
    headline: str | None = None  # measure; none: the benchmark's


class Listed(NamedTuple):
    """What a query ranks in a listed pool; a tie goes to the earlier."""

    task: str
    pool: str
    query_id: str
    candidate_ids: list[str]
    given: int = 0  # how many the source lists, repeats included


class Excluded(NamedTuple):
    """Candidates that are left out of a query's rankings, its own reference image for one."""

    task: str
    query_id: str
    candidate_ids: list[str]


class Contents(NamedTuple):
    """A benchmark as its reader gives it."""

    tables: dict[str, list[Item]]
    tasks: list[Task]
    qrels: list[Qrel]
    lists: Sequence[Listed] = ()
    excluded: Sequence[Excluded] = ()
    absent: frozenset[str] = frozenset()  # relevant candidates that no pool needs to have
    missing: Sequence[tuple[str, str]] = ()  # (task, query) that can't be used
    rejects: Sequence[tuple[str, str, str]] = ()  # record, path, reason
    lost: Mapping[str, int] = MappingProxyType({})  # table -> candidates that its reader left out


def write_benchmark(folder: Path, contents: Contents, about: dict[str, Any], digests: Mapping[str, str]) -> None:
    """Write a prepared folder of a benchmark.

    Raises:
        ValueError: an id occurs twice in a table, or a qrel or list names an unknown query or candidate.
    """
    check_ids(contents)
    units = Units(digests)
    rows = [
        (name, i.item_id, [units.image(x) for x in i.images], list(i.weights), units.text(i.text), i.parent_id)
        for name, items in contents.tables.items()
        for i in items
    ]
    units.write(folder)
    texts, numbers = pa.string(), pa.list_(pa.float32())
    write_columns(
        folder / "items.parquet",
        {
            "table": texts,
            "item_id": texts,
            "image_rows": pa.list_(pa.int64()),
            "weights": numbers,
            "text_row": pa.int64(),
            "parent_id": texts,
        },
        rows,
    )
    names = {"task": texts, "query_id": texts}
    write_columns(folder / "qrels.parquet", names | {"candidate_id": texts, "relevance": pa.int64()}, contents.qrels)
    write_columns(
        folder / "lists.parquet",
        {"task": texts, "pool": texts, "query_id": texts, "candidate_rows": pa.list_(pa.int32())},
        list_rows(contents),
    )
    write_columns(folder / "excluded.parquet", names | {"candidate_ids": pa.list_(texts)}, contents.excluded)
    write_columns(folder / "missing.parquet", names, contents.missing)
    text = json.dumps(about | {"tasks": [t._asdict() for t in contents.tasks]}, indent=2)
    (folder / "task.json").write_text(text + "\n")


def write_columns(path: Path, kinds: dict[str, pa.DataType], rows: Iterable[tuple[Any, ...]]) -> None:
    """Write rows as Parquet with the given columns, also if there are none."""
    columns = list(zip(*rows, strict=True)) or [()] * len(kinds)
    arrays = {name: pa.array(values, kind) for (name, kind), values in zip(kinds.items(), columns, strict=True)}
    pq.write_table(pa.table(arrays), path)


def list_rows(contents: Contents) -> Iterable[tuple[str, str, str, list[int]]]:
    """Turn the ids of each list into rows of its pool's tables, one after the other."""
    by_task = {task.name: task for task in contents.tasks}
    row_of: dict[tuple[str, ...], dict[str, int]] = {}
    for listed in contents.lists:
        names = tuple(by_task[listed.task].pools[listed.pool])
        if names not in row_of:
            ids = (item.item_id for name in names for item in contents.tables[name])
            row_of[names] = {item_id: row for row, item_id in enumerate(ids)}
        yield *listed[:3], [row_of[names][item_id] for item_id in listed.candidate_ids]


def check_ids(contents: Contents) -> None:
    """Raise ValueError for duplicate ids, empty tables, and qrels or lists that point nowhere."""
    ids = {name: {item.item_id for item in items} for name, items in contents.tables.items()}
    for name, items in contents.tables.items():
        if not items:
            raise ValueError(f"table '{name}' is empty")
        if len(ids[name]) < len(items):
            seen: set[str] = set()
            twice = next(i.item_id for i in items if i.item_id in seen or seen.add(i.item_id))  # type: ignore[func-returns-value]
            raise ValueError(f"id '{twice}' occurs twice in table '{name}'")
    tasks = {task.name: task for task in contents.tasks}
    pools = {
        (task.name, pool): [ids[name] for name in names]
        for task in contents.tasks
        for pool, names in task.pools.items()
    }
    for (task, pool), members in pools.items():
        if sum(map(len, members)) > len(set().union(*members)):
            raise ValueError(f"two tables of the {pool} pool of {task} share an id")
    for qrel in contents.qrels:
        table = tasks[qrel.task].queries
        if qrel.query_id not in ids[table]:
            raise ValueError(f"qrels of {qrel.task} name query '{qrel.query_id}', which table '{table}' lacks")
        members = [table for pool in tasks[qrel.task].pools for table in pools[qrel.task, pool]]
        if qrel.candidate_id not in contents.absent and not any(qrel.candidate_id in table for table in members):
            raise ValueError(f"qrels of {qrel.task} name candidate '{qrel.candidate_id}', which is in no pool")
    check_lists(contents, ids, pools)


def check_lists(contents: Contents, ids: dict[str, set[str]], pools: dict[tuple[str, str], list[set[str]]]) -> None:
    """Raise ValueError unless every query of a listed pool has one list of known, different candidates."""
    found: dict[tuple[str, str], set[str]] = {}
    for name, pool, query, candidates, _ in contents.lists:
        if unknown := next((c for c in candidates if not any(c in table for table in pools[name, pool])), None):
            raise ValueError(f"{name}: the list of query '{query}' names candidate '{unknown}', which the pool lacks")
        if len(set(candidates)) < len(candidates) or not candidates:
            raise ValueError(f"{name}: the list of query '{query}' is empty or names a candidate twice")
        if query in found.setdefault((name, pool), set()):
            raise ValueError(f"{name}: query '{query}' has two lists in the {pool} pool")
        found[name, pool].add(query)
    for task in contents.tasks:
        for pool in task.listed:
            if lacking := ids[task.queries] - found.get((task.name, pool), set()):
                raise ValueError(f"{task.name}: query '{min(lacking)}' has no list in the {pool} pool")


class Table(NamedTuple):
    """The items of one table in order, as rows into images and texts: arrays, since a pool may have millions."""

    ids: pa.StringArray
    image_rows: pa.ListArray  # of int64
    text_rows: Ints
    weights: pa.ListArray  # of float32, an empty list where images weigh alike

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
    about: dict[str, Any]

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
        ValueError: a file is missing or broken.
    """
    with made_by("prepare", folder):
        return read_files(folder, lists)


def read_files(folder: Path, lists: bool) -> PreparedBenchmark:
    """Read the files of a prepared benchmark."""
    about = mapping(json.loads((folder / "task.json").read_text()), str(folder / "task.json"))
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
    found = PreparedBenchmark(tasks, read_tables(folder), qrels, {}, excluded, missing, about)
    check_tables(found, folder)
    return found._replace(lists=check_rows(found, read_lists(folder), folder)) if lists else found


def check_tables(bench: PreparedBenchmark, folder: Path) -> None:
    """Raise ValueError if a task names a table or a pool that isn't there."""
    for name, table in bench.tables.items():
        if table.text_rows.min() < NO_TEXT or table.image_rows.flatten().to_numpy().min(initial=0) < 0:
            raise ValueError(f"{folder}/items.parquet: table '{name}' has negative rows")
    for task in bench.tasks:
        for name in (task.queries, *(name for names in task.pools.values() for name in names)):
            lookup(bench.tables, name, f"table of task {task.name}", str(folder / "items.parquet"))
        for pool in task.listed:
            lookup(task.pools, pool, f"listed pool of task {task.name}", str(folder / "task.json"))
        if not task.pools or not all(task.pools.values()):
            raise ValueError(f"{folder}/task.json: task {task.name} has no pool, or one without tables")


def check_rows(bench: PreparedBenchmark, lists: Lists, folder: Path) -> Lists:
    """Return the lists; raise ValueError if a query has none, or one that names a row that its pool lacks."""
    for task in bench.tasks:
        for pool in task.listed:
            size, own = len(bench.pool_ids(task, pool)), lists.get((task.name, pool), {})
            for query in bench.queries(task):
                rows = own.get(query)
                if rows is None or not len(rows) or rows.min() < 0 or rows.max() >= size:
                    raise ValueError(
                        f"{folder}/lists.parquet: query '{query}' of {task.name} has no list of rows of {pool}"
                    )
    return lists


def columns(path: Path) -> Iterable[tuple[Any, ...]]:
    """Yield the rows of a small table as tuples."""
    table = read_parquet(path)
    return zip(*(table[name].to_pylist() for name in table.column_names), strict=True)


def read_tables(folder: Path) -> dict[str, Table]:
    """Read items.parquet, a table at a time."""
    items = read_parquet(folder / "items.parquet", dictionary=["table"]).drop_columns("parent_id")
    names = items["table"].combine_chunks()
    edges = [0, *(1 + np.flatnonzero(np.diff(names.indices.to_numpy()))).tolist(), len(names)]
    tables = {}
    for start, stop in pairwise(edges):
        part = items.slice(start, stop - start)
        ids, images, weights = (part[name].combine_chunks() for name in ("item_id", "image_rows", "weights"))
        tables[names[start].as_py()] = Table(ids, images, part["text_row"].to_numpy(), weights)
    del items, part
    pa.default_memory_pool().release_unused()  # pools of millions: what reading took besides
    return tables


def read_lists(folder: Path) -> Lists:
    """Read lists.parquet; the rows stay in one array."""
    table = read_parquet(folder / "lists.parquet").combine_chunks()
    found: Lists = {}
    if not len(table):
        return found
    column = table["candidate_rows"].chunk(0)
    rows, ends = column.values.to_numpy(), column.offsets.to_numpy()
    keys = zip(*(table[name].to_pylist() for name in ("task", "pool", "query_id")), strict=True)
    for i, (task, pool, query) in enumerate(keys):
        found.setdefault((task, pool), {})[query] = rows[ends[i] : ends[i + 1]]
    return found
