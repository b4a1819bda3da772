"""Score a run with ir_measures.

In:  a run (Parquet) and the prepared benchmark with its qrels.
Out: scores.csv, one line per seed, task, pool, calibration and measure, with a bootstrap interval over
     queries; queries.parquet, the same per query; ties.csv, queries whose result a tie decides.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcl.common.command import parser, run
from gcl.common.csv_files import write_csv
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.config.benchmarks import cutoff_of
from gcl.data.prepared import PreparedBenchmark, read_benchmark
from gcl.data.records import read_parquet
from gcl.retrieve.run_file import Ranking, rankings
from gcl.score.answers import Answers
from gcl.score.bootstrap import interval, resample_counts

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


def library_name(measure: str) -> str:
    """Return the measure of ir_measures that one of ours is computed from."""
    return measure.replace("APmin@", "AP@")


def check_measure(measure: str) -> None:
    """Raise UserError if a measure is none, or has no cut-off."""
    try:
        ir_measures.parse_measure(library_name(measure))
        cutoff_of(measure)
    except (ValueError, NameError, IndexError, SyntaxError) as error:
        raise UserError(f"measure '{measure}': expected one of ir_measures' with a cut-off, as Success@10") from error


def per_query(ranking: Ranking, evaluator: Any, queries: list[str], measures: list[str], relevant: Any) -> np.ndarray:
    """Return (Q, measures) values by ir_measures, which sorts by the score it is given: minus the rank.

    APmin@k is CIRCO's mAP@k: a perfect ranking of R relevant candidates has min(R, k) of them in the top k, so
    that AP@k, which divides by R, is scaled by R / min(R, k).
    """
    places = [-float(rank) for rank in range(max(map(cutoff_of, measures)))]
    ranked = {q: dict(zip(row, places, strict=False)) for q, row in zip(queries, ranking.candidates, strict=True)}
    row_of = {query: i for i, query in enumerate(queries)}
    columns: dict[str, list[int]] = {}
    for i, measure in enumerate(measures):
        columns.setdefault(str(ir_measures.parse_measure(library_name(measure))), []).append(i)
    values = np.zeros((len(queries), len(measures)), np.float32)  # a query without qrels counts as a miss
    for metric in evaluator.iter_calc(ranked):
        for column in columns[str(metric.measure)]:
            values[row_of[metric.query_id], column] = metric.value
    for column in (i for i, measure in enumerate(measures) if measure.startswith("APmin@")):
        for query, positives in relevant.items():
            if query in row_of:
                values[row_of[query], column] *= len(positives) / min(len(positives), cutoff_of(measures[column]))
    return values


def decided_by_tie(ranking: Ranking, relevant: dict[str, dict[str, int]], queries: list[str], cutoff: int) -> int:
    """Count queries whose success at `cutoff` depends on the order of equal scores there."""
    count = 0
    for query, candidates, scores in zip(queries, ranking.candidates, ranking.scores, strict=True):
        if len(scores) <= cutoff or scores[cutoff - 1] != scores[cutoff]:
            continue
        good = relevant.get(query, {})
        first, after = (int(np.searchsorted(-scores, -scores[cutoff], side)) for side in ("left", "right"))
        tied = [c in good for c in candidates[first:after]]
        count += any(tied) and not all(tied) and not any(c in good for c in candidates[:first])
    return count


class Scored(NamedTuple):
    """One ranking with its values: queries that could not be used come last, with zeros."""

    ranking: Ranking
    queries: list[str]
    values: np.ndarray  # (Q, measures)
    low: np.ndarray  # (measures,)
    high: np.ndarray
    ties: list[int | None]  # per measure; None where it isn't Success


def score_rankings(
    path: Path, bench: PreparedBenchmark, measures: list[str], resamples: int, answers: Answers
) -> Iterator[Scored]:
    """Yield each ranking with its values, their interval, and ties."""
    parsed = {ir_measures.parse_measure(library_name(m)) for m in measures}
    queries = {task.name: bench.queries(task) for task in bench.tasks}
    tasks = {task.name: task for task in bench.tasks}
    evaluators: dict[str, Any] = {}
    counts: dict[int, np.ndarray] = {}
    for ranking in rankings(path, queries):
        ids, relevant = queries[ranking.task], bench.qrels[ranking.task]
        if ranking.task in bench.answers:
            relevant = answers.relevant(ranking, tasks[ranking.task], max(map(cutoff_of, measures)))
        if ranking.task not in evaluators or ranking.task in bench.answers:
            evaluators[ranking.task] = ir_measures.evaluator(sorted(parsed, key=str), relevant)
        missing = bench.missing[ranking.task]
        per_measure = per_query(ranking, evaluators[ranking.task], ids, measures, relevant)
        values = np.concatenate([per_measure, np.zeros((len(missing), len(measures)), np.float32)])
        if len(values) not in counts:
            counts[len(values)] = resample_counts(len(values), resamples, bench.clusters)
        low, high = interval(values, counts[len(values)])
        ties = [
            decided_by_tie(ranking, relevant, ids, cutoff_of(m)) if m.startswith("Success@") else None for m in measures
        ]
        yield Scored(ranking, [*ids, *missing], values, low, high, ties)


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
        UserError: an unreadable run, one of another benchmark, or a measure that is none.
    """
    for measure in measures:
        check_measure(measure)
    read_parquet(run_file, ["seed"])
    bench = read_benchmark(prepared)
    lines, ties, blocks = [], [], []
    answers = Answers(bench, prepared)
    for ranking, queries, values, low, high, tied in score_rankings(run_file, bench, measures, resamples, answers):
        where = (backbone, recipe, ranking.seed, benchmark, ranking.task, ranking.pool, ranking.calibration)
        for i, measure in enumerate(measures):
            numbers = (f"{x:.6f}" for x in (values[:, i].mean(dtype=np.float64), low[i], high[i]))
            lines.append((*where, measure, *numbers, len(values)))
            if tied[i] is not None:
                ties.append((*where, measure, tied[i], len(values)))
        names = {"seed": ranking.seed, "task": ranking.task, "pool": ranking.pool, "calibration": ranking.calibration}
        columns: dict[str, Any] = {k: pa.array([v] * len(values)).dictionary_encode() for k, v in names.items()}
        columns["query_id"] = queries
        blocks.append(pa.table(columns | {m: values[:, i] for i, m in enumerate(measures)}))
    with atomic_path(output) as folder:
        folder.mkdir()
        write_csv(folder / "scores.csv", COLUMNS, lines)
        write_csv(folder / "ties.csv", (*COLUMNS[:8], "decided_by_tie", "n"), ties)
        pq.write_table(pa.concat_tables(blocks).unify_dictionaries(), folder / "queries.parquet")


def main() -> None:
    """Run from the command line."""
    options = parser(
        "score",
        __doc__,
        "--run results/runs/clip_lite/cl_t05/clipart9.parquet --prepared results/prepared/clipart9"
        " --measures Success@10 --backbone clip_lite --recipe cl_t05 --benchmark clipart9 --output scores",
    )
    options.add_argument("--run", dest="run_file", required=True, type=Path, help="what `retrieve` wrote")
    options.add_argument("--prepared", required=True, type=Path, help="prepared benchmark")
    for name in ("backbone", "recipe", "benchmark"):
        options.add_argument(f"--{name}", required=True, help="for the column of that name")
    options.add_argument("--measures", required=True, nargs="+", help="in ir_measures' names, with a cutoff")
    options.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    options.add_argument("--output", required=True, type=Path, help="folder to write")
    run(options, score)
