"""The canonical tables of a benchmark, whatever it was: after `prepare` no stage knows which one it is.

Beside the images and texts of records.py a prepared benchmark holds:

    items.parquet     table, item_id, image_rows, weights, text_row, places     (text_row -1: no text)
    qrels.parquet     task, query_id, candidate_id, relevance
    lists.parquet     task, pool, query_id, candidate_rows    pools that are a list of candidates per query
    excluded.parquet  task, query_id, candidate_ids           candidates that are not ranked for a query
    missing.parquet   task, query_id          queries that could not be used: they count as misses
    answers.parquet   task, query_id, answers   of tasks where a candidate is relevant if its text holds an answer
    parents.parquet   table, item_id, parent_id   items that are parts of others, and of which
    task.json         tasks: name, query and candidate modality, their tables, facts; measures
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from gcl.common.errors import UserError
from gcl.data.records import ContentRows


class Item(NamedTuple):
    """A query or a candidate: a text (or none) and a list of images (none, one, several frames or pages)."""

    item_id: str
    text: str | None
    images: tuple[str, ...]  # locations
    weights: tuple[float, ...] = ()  # of several images, sum 1; none: equal
    places: tuple[int, ...] = ()  # characters of the text before each image, see in_turns.py; none: images come first

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
    repeats_included: int = 0  # how many the source lists, repeats included


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
    clusters: Sequence[int] = ()  # of the queries of every table, in order: those of one are resampled together
    answers: Sequence[tuple[str, str, list[str]]] = ()  # (task, query, answers), of tasks that are judged by them
    parents: Sequence[tuple[str, str, str]] = ()  # (table, item, the item that it is a part of)


def write_benchmark(folder: Path, contents: Contents, about: dict[str, Any], digests: Mapping[str, str]) -> None:
    """Write a prepared folder of a benchmark.

    Raises:
        UserError: an id occurs twice in a table, or a qrel or list names an unknown query or candidate.
    """
    check_ids(contents)
    units = ContentRows(digests)
    rows = [
        (name, i.item_id, [units.image(x) for x in i.images], list(i.weights), units.text(i.text), list(i.places))
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
            "places": pa.list_(pa.int32()),
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
    write_columns(folder / "answers.parquet", names | {"answers": pa.list_(texts)}, contents.answers)
    write_columns(folder / "parents.parquet", {"table": texts, "item_id": texts, "parent_id": texts}, contents.parents)
    about = about | ({"clusters": list(contents.clusters)} if contents.clusters else {})
    text = json.dumps(about | {"tasks": [t._asdict() for t in contents.tasks]}, indent=2)
    (folder / "task.json").write_text(text + "\n", encoding="utf-8")


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
            raise UserError(f"table '{name}' is empty")
        if len(ids[name]) < len(items):
            seen: set[str] = set()
            twice = next(i.item_id for i in items if i.item_id in seen or seen.add(i.item_id))  # type: ignore[func-returns-value]
            raise UserError(f"id '{twice}' occurs twice in table '{name}'")
    tasks = {task.name: task for task in contents.tasks}
    pools = {
        (task.name, pool): [ids[name] for name in names]
        for task in contents.tasks
        for pool, names in task.pools.items()
    }
    for (task, pool), members in pools.items():
        if sum(map(len, members)) > len(set().union(*members)):
            raise UserError(f"two tables of the {pool} pool of {task} share an id")
    for qrel in contents.qrels:
        table = tasks[qrel.task].queries
        if qrel.query_id not in ids[table]:
            raise UserError(f"qrels of {qrel.task} name query '{qrel.query_id}', which table '{table}' lacks")
        members = [table for pool in tasks[qrel.task].pools for table in pools[qrel.task, pool]]
        if qrel.candidate_id not in contents.absent and not any(qrel.candidate_id in table for table in members):
            raise UserError(f"qrels of {qrel.task} name candidate '{qrel.candidate_id}', which is in no pool")
    check_lists(contents, ids, pools)


def check_lists(contents: Contents, ids: dict[str, set[str]], pools: dict[tuple[str, str], list[set[str]]]) -> None:
    """Raise ValueError unless every query of a listed pool has one list of known, different candidates."""
    listed: dict[tuple[str, str], set[str]] = {}
    for name, pool, query, candidates, _ in contents.lists:
        if unknown := next((c for c in candidates if not any(c in table for table in pools[name, pool])), None):
            raise UserError(f"{name}: the list of query '{query}' names candidate '{unknown}', which the pool lacks")
        if len(set(candidates)) < len(candidates) or not candidates:
            raise UserError(f"{name}: the list of query '{query}' is empty or names a candidate twice")
        if query in listed.setdefault((name, pool), set()):
            raise UserError(f"{name}: query '{query}' has two lists in the {pool} pool")
        listed[name, pool].add(query)
    for task in contents.tasks:
        for pool in task.listed:
            if lacking := ids[task.queries] - listed.get((task.name, pool), set()):
                raise UserError(f"{task.name}: query '{min(lacking)}' has no list in the {pool} pool")
