"""Tables from scores: plain arrays and strings, no files."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gcl.bootstrap import TAILS, resample_counts
from gcl.config import Config, experiment_of
from gcl.items import Task
from gcl.published import Published
from gcl.records import read_parquet

ARROWS = {"image": "i", "text": "t", "image_text": "it"}


class Key(NamedTuple):
    """What a column of per-query results belongs to."""

    task: str
    pool: str
    calibration: str


Part = tuple[float, np.ndarray]  # the weight of a task in a mean, and its (seeds, Q) results


@dataclass(frozen=True)
class Result:
    """Per-query results of one recipe on one benchmark: (seeds, Q) of one measure per task, for each key."""

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


def read_result(folder: Path, backbone: str, recipe: str, measure_of: Mapping[str, str]) -> Result:
    """Read queries.parquet of one recipe: of each task the measure that is named for it."""
    measures = sorted(set(measure_of.values()))
    table = read_parquet(folder / "queries.parquet", ["seed", "task", "pool", "calibration", *measures])
    columns = {
        name: table[name].dictionary_encode().combine_chunks() for name in ("seed", "task", "pool", "calibration")
    }
    numbers = {measure: table[measure].to_numpy() for measure in measures}
    seeds = sorted(columns["seed"].dictionary.to_pylist())
    blocks: dict[Key, list[np.ndarray]] = {}
    codes = np.stack([column.indices.to_numpy() for column in columns.values()])
    changes = 1 + np.flatnonzero((codes[:, 1:] != codes[:, :-1]).any(0))
    for start, stop in pairwise([0, *changes.tolist(), table.num_rows]):
        key = Key(*(columns[n][start].as_py() for n in ("task", "pool", "calibration")))
        blocks.setdefault(key, []).append(numbers[measure_of[key.task]][start:stop])
    return Result(backbone, recipe, seeds, {key: np.stack(rows) for key, rows in blocks.items()})


def averages(tasks: list[Task], pool: str) -> dict[str, dict[str, float]]:
    """Return the means that a table shows of a pool: by name, the weight of each task.

    `mean` is over tasks. Where data sets have several tasks, `data sets` is the mean over data sets of the mean over
    their tasks. Then there is a mean for each group.
    """
    tasks = [task for task in tasks if pool in task.pools]
    found = {"mean": {task.name: 1 / len(tasks) for task in tasks}}
    sizes = Counter(task.dataset for task in tasks if task.dataset)
    if sizes and len(sizes) < len(tasks):
        found["data sets"] = {task.name: 1 / len(sizes) / sizes[task.dataset] for task in tasks if task.dataset}
    for group in dict.fromkeys(group for task in tasks for group in task.groups):
        members = [task.name for task in tasks if group in task.groups]
        found[group] = dict.fromkeys(members, 1 / len(members))
    return found


def parts(result: Result, weights: Mapping[str, float], pool: str, calibration: str) -> list[Part]:
    """Return the weighted results that make up a mean of tasks."""
    return [(weight, result.values[Key(task, pool, calibration)]) for task, weight in weights.items()]


def summarise(found: list[Part], resamples: int) -> Summary:
    """Summarise a weighted mean of tasks' (seeds, Q) results in 0..1.

    Tasks with equally many queries are resampled alike: where query n of every task is about the same subject, as in
    clipart9, a resampled subject brings all its queries along.
    """
    by_seed = 100 * sum(weight * values.mean(1, dtype=np.float64) for weight, values in found)
    means = sum(
        weight * (resample_counts(values.shape[1], resamples) @ values.mean(0, dtype=np.float64)) / values.shape[1]
        for weight, values in found
    )
    low, high = np.quantile(means, TAILS) * 100
    deviation = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else float("nan")
    return Summary(float(by_seed.mean()), deviation, float(low), float(high))


def difference(a: list[Part], b: list[Part], resamples: int) -> Summary:
    """Summarise the paired difference of two means of the same tasks: the same resampled queries for both."""
    return summarise([(weight, x - y) for (weight, x), (_, y) in zip(a, b, strict=True)], resamples)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; the first columns hold names, the rest are aligned right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows]) + "\n"


def pools_of(tasks: list[Task]) -> list[str]:
    """Return the pools of a benchmark: the global one first, the rest in order of first occurrence."""
    return sorted(dict.fromkeys(pool for task in tasks for pool in task.pools), key=lambda pool: pool != "global")


def full_rows(
    benchmark: str, results: list[Result], tasks: list[Task], config: Config, about: Mapping[str, dict[str, str]]
) -> list[dict[str, Any]]:
    """One row per recipe, calibration and pool: the means over tasks, then each task.

    `about` has what else says how a backbone's numbers came about: protocol, fusion, queries, data.
    """
    rows = []
    for result in results:
        for calibration in experiment_of(config, result.recipe).calibrations:
            for pool in pools_of(tasks):
                shown = averages(tasks, pool) | {t.name: {t.name: 1.0} for t in tasks if pool in t.pools}
                where: dict[str, Any] = {
                    "benchmark": benchmark,
                    "backbone": result.backbone,
                    "recipe": result.recipe,
                    "calibration": calibration,
                    "pool": pool,
                }
                found = {
                    name: summarise(parts(result, weights, pool, calibration), config.resamples)
                    for name, weights in shown.items()
                }
                rows.append(where | about[result.backbone] | {"seeds": len(result.seeds), "summaries": found})
    return rows


def task_label(name: str) -> str:
    """Turn i_it into i→it; other names stay."""
    return name.replace("_", "→", 1) if set(name.split("_")) <= set(ARROWS.values()) else name


def protocol_of(said: str, calibration: str) -> str:
    """Join what a benchmark says of its protocol with the calibration."""
    return ", ".join(filter(None, [said, f"calibration {calibration}"]))


def full_table(rows: list[dict[str, Any]], pool: str, published: list[Published]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the lines of one pool: ours by recipe and calibration, then what others published."""
    chosen = [row for row in rows if row["pool"] == pool]
    names = list(chosen[0]["summaries"])
    titles = ["mean [95 % CI]" if n == "mean" else task_label(n) for n in names]
    header = ["recipe", "protocol", "fusion", "queries", *titles]
    has_one = len({row["backbone"] for row in rows}) == 1
    body = []
    for row in chosen:
        label = row["recipe"] if has_one else f"{row['backbone']} {row['recipe']}"
        found = row["summaries"]
        protocol = protocol_of(row["protocol"], row["calibration"])
        numbers = [found["mean"].long(), *(found[n].short() for n in names[1:])]
        body.append([label, protocol, row["fusion"], row["queries"], *numbers])
    for other in (p for p in published if p.measure is None):
        values = (other.values.get(name) for name in names)
        body.append([other.label(), other.protocol, "–", "–", *("" if v is None else f"{v:.1f}" for v in values)])
    return header, body


def measure_table(
    lines: list[list[str]],
    protocols: Mapping[str, str],
    weights: Mapping[str, float],
    pool: str,
    measures: list[str],
    published: list[Published],
) -> tuple[list[str], list[list[str]]]:
    """Return the header and the lines of a table of means by measure, from the lines of scores.csv.

    `protocols` says by benchmark how its numbers came about, apart from the calibration.
    """
    sums: dict[tuple[str, str, str], Counter[str]] = {}
    seeds: dict[tuple[str, str, str], set[str]] = {}
    for backbone, recipe, seed, benchmark, task, where, calibration, measure, value, *_ in lines:
        if where == pool and task in weights:
            key = (backbone, recipe, protocol_of(protocols[benchmark], calibration))
            sums.setdefault(key, Counter())[measure] += 100 * weights[task] * float(value)  # type: ignore[assignment]
            seeds.setdefault(key, set()).add(seed)
    body = [
        [f"{key[0]} {key[1]}", key[2], *(f"{found[m] / len(seeds[key]):.1f}" for m in measures)]
        for key, found in sums.items()
    ]
    others: dict[tuple[str, str], dict[str | None, float]] = {}
    for row in published:
        if row.measure in measures and "mean" in row.values:
            others.setdefault((row.label(), row.protocol), {})[row.measure] = row.values["mean"]
    for names, values in others.items():
        body.append([*names, *("" if m not in values else f"{values[m]:.1f}" for m in measures)])
    return ["recipe", "protocol", *measures], body


def csv_rows(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The same numbers in long form."""
    where = ("benchmark", "backbone", "recipe", "calibration", "pool", "protocol", "fusion", "queries", "data")
    header = [*where, "task", "seeds", "mean", "deviation_over_seeds", "ci_low", "ci_high"]
    return header, [
        [*(row[w] for w in where), name, str(row["seeds"]), *(f"{x:.4f}" for x in found)]
        for row in rows
        for name, found in row["summaries"].items()
    ]


def latex(header: list[str], rows: list[list[str]]) -> str:
    """Return a LaTeX table for the package booktabs."""

    def line(cells: list[str]) -> str:
        return " & ".join(escaped(cell) for cell in cells) + r" \\"

    columns = "l" * 3 + "r" * (len(header) - 3)
    body = [line(header), r"\midrule", *map(line, rows), r"\bottomrule", r"\end{tabular}"]
    return "\n".join([rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *body]) + "\n"


def escaped(text: str) -> str:
    """Escape what LaTeX would read as commands."""
    for plain, written in (
        ("_", r"\_"),
        ("%", r"\%"),
        ("&", r"\&"),
        ("→", r"$\to$"),
        ("±", r"$\pm$"),
        ("†", r"$\dagger$"),
    ):
        text = text.replace(plain, written)
    return text
