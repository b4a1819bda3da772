"""Means of tasks with their spread over seeds and their bootstrap interval, from per-query scores."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gcl.common.arrays import SHORT
from gcl.common.errors import UserError
from gcl.data.items import Task
from gcl.data.records import read_parquet
from gcl.score.bootstrap import TAILS, resample_counts


class ResultKey(NamedTuple):
    """What a column of per-query results belongs to."""

    task: str
    pool: str
    calibration: str


Weighted = tuple[float, np.ndarray]  # the weight of a task in a mean, and its (seeds, Q) results


@dataclass(frozen=True)
class Result:
    """Per-query results of one recipe on one benchmark: (seeds, Q) of one measure per task, for each key."""

    backbone: str
    recipe: str
    seeds: list[int]
    values: dict[ResultKey, np.ndarray]


class Summary(NamedTuple):
    """A mean with the spread over seeds and the bootstrap interval over queries, all in percent."""

    mean: float
    deviation: float  # over seeds; NaN for one seed
    low: float
    high: float

    def short(self) -> str:
        """Format as mean ± deviation, the mean alone for one seed."""
        return f"{self.mean:.1f}" + (f" ± {self.deviation:.1f}" if np.isfinite(self.deviation) else "")

    def long(self) -> str:
        """Format with the interval."""
        return f"{self.short()} [{self.low:.1f}, {self.high:.1f}]"


def read_result(folder: Path, backbone: str, recipe: str, measure_of: Mapping[str, str]) -> Result:
    """Read queries.parquet of one recipe: of each task the measure that is named for it."""
    measures = sorted(set(measure_of.values()))
    table = read_parquet(folder / "queries.parquet", ["seed", "task", "pool", "calibration", *measures])
    columns = {
        name: table[name].dictionary_encode().combine_chunks() for name in ("seed", "task", "pool", "calibration")
    }
    numbers = {measure: table[measure].to_numpy() for measure in measures}
    seeds = sorted(columns["seed"].dictionary.to_pylist())
    blocks: dict[ResultKey, dict[int, np.ndarray]] = {}
    codes = np.stack([column.indices.to_numpy() for column in columns.values()])
    changes = 1 + np.flatnonzero((codes[:, 1:] != codes[:, :-1]).any(0))
    for start, stop in pairwise([0, *changes.tolist(), table.num_rows]):
        key = ResultKey(*(columns[n][start].as_py() for n in ("task", "pool", "calibration")))
        seed = columns["seed"][start].as_py()
        blocks.setdefault(key, {})[seed] = numbers[measure_of[key.task]][start:stop]
    return Result(backbone, recipe, seeds, {key: np.stack([rows[s] for s in seeds]) for key, rows in blocks.items()})


def of_seeds(result: Result, seeds: Sequence[int]) -> Result:
    """Return the results of some of the seeds, in their order."""
    rows = [result.seeds.index(seed) for seed in seeds]
    return replace(result, seeds=list(seeds), values={key: values[rows] for key, values in result.values.items()})


def averages(tasks: list[Task], pool: str) -> dict[str, dict[str, float]]:
    """Return the means that a table shows of a pool: by name, the weight of each task.

    `mean` is over tasks. Where data sets have several tasks, `data sets` is the mean over data sets of the mean over
    their tasks. Then there is a mean for each group.
    """
    tasks = [task for task in tasks if pool in task.pools]
    weights = {"mean": {task.name: 1 / len(tasks) for task in tasks}}
    sizes = Counter(task.dataset for task in tasks if task.dataset)
    if sizes and len(sizes) < len(tasks):
        weights["data sets"] = {task.name: 1 / len(sizes) / sizes[task.dataset] for task in tasks if task.dataset}
    for group in dict.fromkeys(group for task in tasks for group in task.groups):
        members = [task.name for task in tasks if group in task.groups]
        weights[group] = dict.fromkeys(members, 1 / len(members))
    return weights


def weighted_results(result: Result, weights: Mapping[str, float], pool: str, calibration: str) -> list[Weighted]:
    """Return the weighted results that make up a mean of tasks."""
    return [(weight, result.values[ResultKey(task, pool, calibration)]) for task, weight in weights.items()]


def summarise(results: list[Weighted], resamples: int, clusters: tuple[int, ...] = ()) -> Summary:
    """Summarise a weighted mean of tasks' (seeds, Q) results in 0..1; queries of a cluster are resampled together.

    Tasks with equally many queries are resampled alike: where query n of every task is about the same subject, as in
    clipart9, a resampled subject brings all its queries along.
    """
    by_seed = 100 * sum(weight * values.mean(1, dtype=np.float64) for weight, values in results)
    means = sum(
        weight
        * (resample_counts(values.shape[1], resamples, clusters) @ values.mean(0, dtype=np.float64))
        / values.shape[1]
        for weight, values in results
    )
    low, high = np.quantile(means, TAILS) * 100
    deviation = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else float("nan")
    return Summary(float(by_seed.mean()), deviation, float(low), float(high))


def difference(a: list[Weighted], b: list[Weighted], resamples: int, clusters: tuple[int, ...] = ()) -> Summary:
    """Summarise the paired difference of two means of the same tasks: the same seeds and resampled queries for both.

    Raises:
        UserError: other tasks, seeds or queries on one side than on the other.
    """
    if [x.shape for _, x in a] != [y.shape for _, y in b]:
        shapes = [[values.shape for _, values in parts] for parts in (a, b)]
        raise UserError(f"results of shapes {shapes} can't be paired: expected the same tasks, seeds and queries")
    return summarise([(weight, x - y) for (weight, x), (_, y) in zip(a, b, strict=True)], resamples, clusters)


def pools_of(tasks: list[Task]) -> list[str]:
    """Return the pools of a benchmark: the global one first, the rest in order of first occurrence."""
    return sorted(dict.fromkeys(pool for task in tasks for pool in task.pools), key=lambda pool: pool != "global")


def task_label(name: str) -> str:
    """Turn i_it into i→it; other names stay."""
    return name.replace("_", "→", 1) if set(name.split("_")) <= set(SHORT.values()) else name
