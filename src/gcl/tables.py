"""Tables from scores: plain arrays and strings, no files."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gcl.bootstrap import interval, resample_counts
from gcl.config import Config, experiment_of
from gcl.records import PreparedBenchmark, read_parquet

ARROWS = {"image": "i", "text": "t", "image_text": "it"}


class Key(NamedTuple):
    """What a column of per-query results belongs to."""

    task: str
    pool: str
    calibration: str


@dataclass(frozen=True)
class Result:
    """Per-query results of one recipe on one benchmark: (seeds, Q) of the headline measure for each key."""

    backbone: str
    recipe: str
    seeds: list[int]
    values: dict[Key, np.ndarray]


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


def read_result(folder: Path, backbone: str, recipe: str, measure: str) -> Result:
    """Read queries.parquet of one recipe."""
    table = read_parquet(folder / "queries.parquet", ["seed", "task", "pool", "calibration", measure])
    columns = {name: np.array(table[name].to_pylist()) for name in ("seed", "task", "pool", "calibration")}
    numbers = table[measure].to_numpy()
    seeds = sorted(set(columns["seed"].tolist()))
    blocks: dict[Key, list[np.ndarray]] = {}
    edges = [
        0,
        *(1 + np.flatnonzero(np.any([c[1:] != c[:-1] for c in columns.values()], axis=0))).tolist(),
        len(numbers),
    ]
    for start, stop in pairwise(edges):
        key = Key(*(str(columns[n][start]) for n in ("task", "pool", "calibration")))
        blocks.setdefault(key, []).append(numbers[start:stop])
    return Result(backbone, recipe, seeds, {key: np.stack(rows) for key, rows in blocks.items()})


def average(result: Result, tasks: Iterable[str], pool: str, calibration: str) -> np.ndarray:
    """Return (seeds, Q): each query number's mean over tasks.

    Query number n of every task is the same held-out subject, so a resampled subject brings all its
    queries along.
    """
    return np.mean([result.values[Key(task, pool, calibration)] for task in tasks], axis=0)


def summarise(values: np.ndarray, resamples: int) -> Summary:
    """Summarise (seeds, Q) results in 0..1."""
    by_seed = values.mean(1) * 100
    low, high = interval(values.mean(0)[:, None].astype(np.float32), resample_counts(values.shape[1], resamples))
    deviation = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else float("nan")
    return Summary(float(by_seed.mean()), deviation, float(low[0]) * 100, float(high[0]) * 100)


def difference(a: np.ndarray, b: np.ndarray, resamples: int) -> Summary:
    """Summarise the paired difference of two (seeds, Q) results: the same resampled queries for both."""
    return summarise(a - b, resamples)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; the first columns hold names, the rest are aligned right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows]) + "\n"


def full_rows(results: list[Result], bench: PreparedBenchmark, config: Config) -> list[dict[str, Any]]:
    """One row per recipe, calibration and pool: the mean over tasks, then each task."""
    tasks = [task.name for task in bench.tasks]
    rows = []
    for result in results:
        for calibration in experiment_of(config, result.recipe).calibrations:
            for pool in bench.tasks[0].pools:
                parts = {"mean": average(result, tasks, pool, calibration)}
                parts |= {task: result.values[Key(task, pool, calibration)] for task in tasks}
                summaries = {name: summarise(values, config.resamples) for name, values in parts.items()}
                where = {"backbone": result.backbone, "recipe": result.recipe, "calibration": calibration, "pool": pool}
                rows.append(where | {"seeds": len(result.seeds)} | summaries)
    return rows


def task_label(name: str) -> str:
    """Turn i_it into i→it."""
    return name.replace("_", "→", 1)


def full_table(rows: list[dict[str, Any]], bench: PreparedBenchmark, pool: str) -> str:
    """Markdown of one pool: recipes and calibrations by tasks."""
    names = ["mean", *(task.name for task in bench.tasks)]
    header = ["recipe", "calibration", *("mean [95 % CI]" if n == "mean" else task_label(n) for n in names)]
    body = []
    for row in rows:
        if row["pool"] == pool:
            label = row["recipe"] if len({r["backbone"] for r in rows}) == 1 else f"{row['backbone']} {row['recipe']}"
            body.append([label, row["calibration"], row["mean"].long(), *(row[n].short() for n in names[1:])])
    return markdown(header, body)


def csv_rows(rows: list[dict[str, Any]], bench: PreparedBenchmark) -> tuple[list[str], list[list[str]]]:
    """The same numbers in long form."""
    header = [
        "backbone",
        "recipe",
        "calibration",
        "pool",
        "task",
        "seeds",
        "mean",
        "deviation_over_seeds",
        "ci_low",
        "ci_high",
    ]
    names = ["mean", *(task.name for task in bench.tasks)]
    where = ("backbone", "recipe", "calibration", "pool")
    return header, [
        [*(row[w] for w in where), n, str(row["seeds"]), *(f"{x:.4f}" for x in row[n])] for row in rows for n in names
    ]
