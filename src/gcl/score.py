"""Score a run with ir_measures.

In:  a run (Parquet) and the prepared benchmark with its qrels.
Out: scores.csv, one line per seed, task, pool, calibration and measure, with a bootstrap interval over
     queries; queries.parquet, the same per query; ties.csv, queries whose result a tie decides.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcl.bootstrap import interval, resample_counts
from gcl.command import parser, run
from gcl.files import atomic_path
from gcl.records import PreparedBenchmark, Task, read_benchmark, read_parquet

COLUMNS = (
    "backbone",
    "recipe",
    "seed",
    "benchmark",
    "task",
    "pool",
    "calibration",
    "measure",
    "value",
    "ci_low",
    "ci_high",
    "n",
)


class Ranking(NamedTuple):
    """One pool of one task, ranked by one seed with one calibration."""

    seed: int
    task: str
    pool: str
    calibration: str
    candidates: list[list[str]]  # per query, best first
    scores: np.ndarray  # (Q, k)


def rankings(path: Path, queries: dict[str, list[str]]) -> Iterator[Ranking]:
    """Read a run, one ranking at a time.

    Raises:
        ValueError: a block whose queries are not those of its task in order, or of unequal depth.
    """
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        if not table.num_rows:
            continue
        first = {c: table[c][0].as_py() for c in ("seed", "task", "pool", "calibration")}
        wanted = queries[first["task"]]
        depth, rest = divmod(table.num_rows, len(wanted))
        if rest or strings(table["query_id"])[:: max(depth, 1)].tolist() != wanted:
            raise ValueError(f"{path} ranks other queries than the benchmark has ({first}); run `retrieve` again")
        rows = strings(table["candidate_id"]).reshape(-1, depth).tolist()
        yield Ranking(**first, candidates=rows, scores=table["score"].to_numpy().reshape(-1, depth))


def strings(column: pa.ChunkedArray) -> np.ndarray:
    """Return a dictionary-encoded column as objects; far quicker than through scalars."""
    array = column.combine_chunks()
    values: np.ndarray = np.array(array.dictionary.to_pylist(), dtype=object)[array.indices.to_numpy()]
    return values


def per_query(ranking: Ranking, evaluator: Any, queries: list[str], names: list[str], deepest: int) -> np.ndarray:
    """Return (Q, measures) values by ir_measures, which sorts by the score it is given: minus the rank."""
    given = {
        query: {c: -float(rank) for rank, c in enumerate(row[:deepest])}
        for query, row in zip(queries, ranking.candidates, strict=True)
    }
    row_of = {query: i for i, query in enumerate(queries)}
    values = np.zeros((len(queries), len(names)), np.float32)  # a query without qrels counts as a miss
    for found in evaluator.iter_calc(given):
        values[row_of[found.query_id], names.index(str(found.measure))] = found.value
    return values


def decided_by_tie(ranking: Ranking, relevant: dict[str, dict[str, int]], queries: list[str], cutoff: int) -> int:
    """Count queries whose success at `cutoff` depends on the order of equal scores there."""
    if ranking.scores.shape[1] <= cutoff:
        return 0
    edge = ranking.scores[:, cutoff - 1]
    count = 0
    for i in np.flatnonzero(edge == ranking.scores[:, cutoff]):
        good = relevant.get(queries[i], {})
        row = ranking.scores[i]
        above = [c for c, s in zip(ranking.candidates[i], row, strict=True) if s > edge[i]]
        tied = [c in good for c, s in zip(ranking.candidates[i], row, strict=True) if s == edge[i]]
        count += any(tied) and not all(tied) and not any(c in good for c in above)
    return count


def score_rankings(
    path: Path, bench: PreparedBenchmark, measures: list[str], resamples: int
) -> Iterator[tuple[Ranking, np.ndarray, np.ndarray, np.ndarray, list[int]]]:
    """Yield each ranking with values (Q, m), their interval, and ties per measure."""
    parsed = [ir_measures.parse_measure(m) for m in measures]
    cutoffs = [int(m.split("@")[1]) for m in measures]
    queries = {task.name: bench.tables[task.queries].ids for task in bench.tasks}
    evaluators = {task.name: ir_measures.evaluator(parsed, bench.qrels[task.name]) for task in bench.tasks}
    counts: dict[int, np.ndarray] = {}
    for ranking in rankings(path, queries):
        ids = queries[ranking.task]
        values = per_query(ranking, evaluators[ranking.task], ids, [str(m) for m in parsed], max(cutoffs))
        if len(ids) not in counts:
            counts[len(ids)] = resample_counts(len(ids), resamples)
        low, high = interval(values, counts[len(ids)])
        ties = [decided_by_tie(ranking, bench.qrels[ranking.task], ids, c) for c in cutoffs]
        yield ranking, values, low, high, ties


def score(
    run_file: Path,
    prepared: Path,
    backbone: str,
    recipe: str,
    benchmark: str,
    measures: list[str],
    resamples: int,
    output: Path,
) -> None:
    """Score a run into the folder `output`.

    Raises:
        ValueError: an unreadable run, or one of another benchmark.
    """
    read_parquet(run_file, ["seed"])
    bench = read_benchmark(prepared)
    subjects: dict[str, Task] = {task.name: task for task in bench.tasks}
    lines, ties, blocks = [], [], []
    for ranking, values, low, high, tied in score_rankings(run_file, bench, measures, resamples):
        where = (backbone, recipe, ranking.seed, benchmark, ranking.task, ranking.pool, ranking.calibration)
        for i, measure in enumerate(measures):
            numbers = (f"{x:.6f}" for x in (values[:, i].mean(dtype=np.float64), low[i], high[i]))
            lines.append((*where, measure, *numbers, len(values)))
            ties.append((*where, measure, tied[i], len(values)))
        names = {"seed": ranking.seed, "task": ranking.task, "pool": ranking.pool, "calibration": ranking.calibration}
        columns: dict[str, Any] = {k: pa.array([v] * len(values)).dictionary_encode() for k, v in names.items()}
        columns["query_id"] = bench.tables[subjects[ranking.task].queries].ids
        blocks.append(pa.table(columns | {m: values[:, i] for i, m in enumerate(measures)}))
    with atomic_path(output) as folder:
        folder.mkdir()
        write_csv(folder / "scores.csv", COLUMNS, lines)
        write_csv(folder / "ties.csv", (*COLUMNS[:8], "decided_by_tie", "n"), ties)
        pq.write_table(pa.concat_tables(blocks).unify_dictionaries(), folder / "queries.parquet")


def write_csv(path: Path, header: tuple[str, ...], lines: list[tuple[Any, ...]]) -> None:
    """Write a CSV file with line feeds."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])


def main() -> None:
    """Run from the command line."""
    made = parser("score", __doc__, "--run run.parquet --prepared data/prepared/clipart9 --measures Success@10 ...")
    made.add_argument("--run", dest="run_file", required=True, type=Path, help="what `retrieve` wrote")
    made.add_argument("--prepared", required=True, type=Path, help="prepared benchmark")
    for name in ("backbone", "recipe", "benchmark"):
        made.add_argument(f"--{name}", required=True, help="for the column of that name")
    made.add_argument("--measures", required=True, nargs="+", help="in ir_measures' names, with a cutoff")
    made.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    made.add_argument("--output", required=True, type=Path, help="folder to write")
    run(made, score)


if __name__ == "__main__":
    main()
