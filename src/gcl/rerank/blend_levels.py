"""Rank pages by what is on them too: a parent's score is blended with that of its best child.

In:  a run with rankings of both levels for the same queries, as tasks of one benchmark (MMDocIR's page and layout),
     and the benchmark as prepared, which says on which page a layout lies (parents.parquet).
Out: a run of the parents' task alone, one ranking for each of the run's. A parent that only a child of its brought
     in is ranked too. Each level's scores of a query are standardised before they are added:
     (1 - weight) * z(own) + weight * z(best child's); what a level did not rank has the least of its scores.

The union of routes over pages and crops of the multi-granularity framework (arXiv 2505.01457), without its judge.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from gcl.common.arrays import Floats
from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.common.names import lookup
from gcl.data.items import Task
from gcl.data.prepared import PreparedBenchmark, read_benchmark
from gcl.data.records import read_parquet
from gcl.rerank.lists import rows_in
from gcl.retrieve.run_file import STORED, Ranking, rankings, run_table
from gcl.retrieve.task_ranker import Ranked


def standardised(scores: Floats) -> Floats:
    """Return scores with mean 0 and deviation 1; all 0 where they are equal."""
    deviation = float(scores.std())
    standard: Floats = (scores - scores.mean()) / (deviation if deviation > 0 else 1)
    return standard


def blended(
    own: Mapping[str, float], children: Mapping[str, float], parent_of: Mapping[str, str], weight: float
) -> tuple[list[str], Floats]:
    """Return parents, best first, with their scores; equal ones in the order of `own`, then of `children`.

    Args:
        own: parent -> score, best first.
        children: child -> score, best first.
        parent_of: child -> parent.
        weight: of the children, 0 to 1.
    """
    best: dict[str, float] = {}
    for child, score in children.items():
        best.setdefault(parent_of[child], score)
    names = list(dict.fromkeys([*own, *best]))
    total = np.zeros(len(names), np.float32)
    for level, share in ((own, 1 - weight), (best, weight)):
        if level:
            least = min(level.values())
            total += share * standardised(np.array([level.get(name, least) for name in names], np.float32))
    order = np.argsort(-total, kind="stable")
    return [names[place] for place in order], total[order]


def of_query(ranking: Ranking, place: int) -> dict[str, float]:
    """Return candidate -> score of one query."""
    return dict(zip(ranking.candidates[place], ranking.scores[place].tolist(), strict=True))


def parents_of(prepared: Path, bench: PreparedBenchmark, children: Task) -> dict[str, str]:
    """Return child -> parent of all candidates of a task.

    Raises:
        UserError: the benchmark names no parent of one.
    """
    rows = read_parquet(prepared / "parents.parquet").to_pylist()
    parents = {(row["table"], row["item_id"]): row["parent_id"] for row in rows}
    tables = {table for pool in children.pools.values() for table in pool}
    ids = [(table, item) for table in sorted(tables) for item in bench.tables[table].ids.to_pylist()]
    if lacking := next((key for key in ids if key not in parents), None):
        raise UserError(
            f"{prepared}/parents.parquet names no parent of '{lacking[0]}', item '{lacking[1]}'; "
            f"is it a benchmark of two levels?"
        )
    return {item: parents[table, item] for table, item in ids}


def pairs_of(ranked: Sequence[Ranking], parents: str, children: str, run_file: Path) -> list[tuple[Ranking, Ranking]]:
    """Match the rankings of both tasks by seed, pool and calibration.

    Raises:
        UserError: one has no counterpart.
    """
    by_key = {(r.task, r.seed, r.pool, r.calibration): r for r in ranked}
    matched = []
    for (task, seed, pool, calibration), ranking in by_key.items():
        if task == parents:
            if (other := by_key.get((children, seed, pool, calibration))) is None:
                raise UserError(f"{run_file}: seed {seed}, pool {pool}, {calibration}: task '{children}' is not ranked")
            matched.append((ranking, other))
    return matched


def blend_levels(run_file: Path, prepared: Path, parents: str, children: str, weight: float, output: Path) -> None:
    """Write the blended rankings.

    Raises:
        UserError: an unknown task, a weight beyond 0 to 1, tasks of other queries, or a run without both.
    """
    if not 0 <= weight <= 1:
        raise UserError(f"--weight {weight}: expected 0, the parents' own scores, to 1, their children's alone")
    bench = read_benchmark(prepared)
    tasks = {task.name: task for task in bench.tasks}
    task, other = (lookup(tasks, name, "task", str(prepared / "task.json")) for name in (parents, children))
    if task.queries != other.queries:
        raise UserError(f"tasks '{parents}' and '{children}' have other queries, {task.queries} and {other.queries}")
    parent_of = parents_of(prepared, bench, other)
    ranked = list(rankings(run_file, {name: bench.queries(one) for name, one in tasks.items()}))
    if not (matched := pairs_of(ranked, parents, children, run_file)):
        raise UserError(f"{run_file} has no ranking of task '{parents}'")
    schema = pq.read_schema(run_file)
    with atomic_path(output) as temporary, pq.ParquetWriter(temporary, schema, **STORED) as writer:
        for own, below in matched:
            pool, scores, rows = bench.pool_ids(task, own.pool), [], []
            for place in range(len(own.candidates)):
                names, values = blended(of_query(own, place), of_query(below, place), parent_of, weight)
                rows.append(rows_in(names, pool))
                scores.append(values)
            table = run_table(task, own.pool, own.calibration, own.seed, Ranked(scores, rows), bench)
            writer.write_table(table.cast(schema), row_group_size=max(1, len(table)))


def main() -> None:
    """Run from the command line."""
    options = parser(
        "blend_levels",
        __doc__,
        "--run results/runs/clip_l14_unit/released/mmdocir.parquet --prepared results/prepared/mmdocir"
        " --parents page --children layout --output pages.parquet",
    )
    options.add_argument("--run", dest="run_file", required=True, type=Path, help="what `retrieve` wrote")
    options.add_argument("--prepared", required=True, type=Path, help="the benchmark, prepared")
    options.add_argument("--parents", required=True, help="task whose candidates are ranked")
    options.add_argument("--children", required=True, help="task whose candidates are parts of them")
    options.add_argument("--weight", type=float, default=0.5, help="of the best child's score, 0 to 1 (0.5)")
    options.add_argument("--output", required=True, type=Path, help="Parquet file to write")
    run(options, blend_levels)


if __name__ == "__main__":
    main()
