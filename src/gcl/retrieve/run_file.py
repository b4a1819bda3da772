"""Runs: how rankings are written, as Parquet and as TREC files, and read back."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcl.common.errors import UserError
from gcl.common.rows import made_by
from gcl.data.items import Task
from gcl.data.prepared import PreparedBenchmark
from gcl.retrieve.task_ranker import Ranked


class Ranking(NamedTuple):
    """One pool of one task, ranked by one seed with one calibration."""

    seed: int
    task: str
    pool: str
    calibration: str
    candidates: list[list[str]]  # per query, best first
    scores: list[np.ndarray]  # per query


def rankings(path: Path, queries: dict[str, list[str]]) -> Iterator[Ranking]:
    """Read a run, one ranking at a time.

    Raises:
        UserError: a block whose queries are not those of its task in order, or a broken file.
    """
    with made_by("retrieve", path):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            if table.num_rows:
                yield ranking_of(table, path, queries)


def ranking_of(table: pa.Table, path: Path, queries: dict[str, list[str]]) -> Ranking:
    """Return the ranking in a row group of a run."""
    first = {c: table[c][0].as_py() for c in ("seed", "task", "pool", "calibration")}
    starts = np.flatnonzero(table["rank"].to_numpy() == 1)
    if strings(table["query_id"])[starts].tolist() != queries[first["task"]]:
        raise UserError(f"{path} ranks other queries than the benchmark has ({first}); run `retrieve` again")
    names, scores = strings(table["candidate_id"]).tolist(), table["score"].to_numpy()
    parts = [slice(*edges) for edges in pairwise([*starts.tolist(), len(names)])]
    return Ranking(**first, candidates=[names[part] for part in parts], scores=[scores[part] for part in parts])


def strings(column: pa.ChunkedArray) -> np.ndarray:
    """Return a dictionary-encoded column as objects; far quicker than through scalars."""
    array = column.combine_chunks()
    values: np.ndarray = np.array(array.dictionary.to_pylist(), dtype=object)[array.indices.to_numpy()]
    return values


# What repeats is stored as a dictionary; scores don't. Nothing reads statistics, half the time of writing.
STORED: dict[str, Any] = {
    "compression": "zstd",
    "write_statistics": False,
    "use_dictionary": ["seed", "task", "pool", "calibration", "query_id", "candidate_id", "rank"],
    "use_byte_stream_split": ["score"],
}


def run_table(task: Task, pool: str, mode: str, seed: int, ranked: Ranked, bench: PreparedBenchmark) -> pa.Table:
    """Return a ranking as rows of the run."""
    lengths = [len(rows) for rows in ranked.rows]
    rows = np.concatenate(ranked.rows)
    used, codes = np.unique(rows, return_inverse=True)
    queries = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    ids = bench.pool_ids(task, pool).take(pa.array(used)).combine_chunks()
    return pa.table(
        {
            "seed": pa.array(np.full(len(rows), seed, np.int16)),
            "task": constant(task.name, len(rows)),
            "pool": constant(pool, len(rows)),
            "calibration": constant(mode, len(rows)),
            "query_id": pa.DictionaryArray.from_arrays(queries, bench.tables[task.queries].ids),
            "candidate_id": pa.DictionaryArray.from_arrays(codes.astype(np.int32), ids),
            "rank": np.concatenate([np.arange(1, n + 1, dtype=np.int16) for n in lengths]),
            "score": np.concatenate(ranked.scores),
        }
    )


def constant(value: str, n: int) -> pa.DictionaryArray:
    """Return a column of one value."""
    return pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [value])


def lowered(score: np.float32) -> np.float32:
    """Return a slightly smaller score that float32 tells apart, also where denormal numbers are zero."""
    return min(np.nextafter(score, np.float32(-np.inf)), np.float32(score - np.float32(1e-12)))


def field(text: str) -> str:
    """Return a field of a TREC file: white space separates fields, so in them a space is written as %20."""
    return re.sub(r"[%\s]", lambda match: quote(match[0], safe=""), text)


def write_trec(run_table: pa.Table, folder: Path, name: str) -> None:
    """Write a TREC run file: query Q0 candidate rank score tag.

    Tools that read such files sort by the score, as float32, and break ties in ways of their own. So that they
    find our order, a score that ties with the one before is lowered by the least step that float32 has there, near
    zero by 1e-12: numbers far smaller are zero to some tools. White space in ids and in the tag is percent-encoded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tag = field(name)
    first = {c: str(run_table[c][0].as_py()) for c in ("seed", "task", "pool", "calibration")}
    path = folder / f"{name}.{first['task']}.{first['pool']}.{first['calibration']}.seed{first['seed']}.trec"
    below = np.float32(np.inf)
    with path.open("w", encoding="utf-8") as file:
        for query, candidate, rank, score in zip(
            *(run_table[c].to_pylist() for c in ("query_id", "candidate_id", "rank", "score")), strict=True
        ):
            below = np.float32(score) if rank == 1 else min(np.float32(score), lowered(below))
            file.write(f"{field(query)} Q0 {field(candidate)} {rank} {below:.9g} {tag}\n")
