"""Tables from scores: plain arrays and strings, no files."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from gcl.config.project import Config, experiment_of
from gcl.config.published import Published
from gcl.data.prepared import PreparedBenchmark
from gcl.score.statistics import Result, averages, pools_of, summarise, task_label, weighted_results


def full_rows(
    benchmark: str,
    results: list[Result],
    bench: PreparedBenchmark,
    config: Config,
    about: Mapping[str, dict[str, str]],
) -> list[dict[str, Any]]:
    """One row per recipe, calibration and pool: the means over tasks, then each task.

    `about` has what else says how a backbone's numbers came about: protocol, fusion, queries, data.
    """
    rows, tasks = [], bench.tasks
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
                summaries = {
                    name: summarise(
                        weighted_results(result, weights, pool, calibration), config.resamples, bench.clusters
                    )
                    for name, weights in shown.items()
                }
                rows.append(where | about[result.backbone] | {"seeds": len(result.seeds), "summaries": summaries})
    return rows


def protocol_of(protocol: str, calibration: str) -> str:
    """Join what a benchmark says of its protocol with the calibration."""
    return ", ".join(filter(None, [protocol, f"calibration {calibration}"]))


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
        summaries = row["summaries"]
        protocol = protocol_of(row["protocol"], row["calibration"])
        numbers = [summaries["mean"].long(), *(summaries[n].short() for n in names[1:])]
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
        [f"{key[0]} {key[1]}", key[2], *(f"{means[m] / len(seeds[key]):.1f}" for m in measures)]
        for key, means in sums.items()
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
        [*(row[w] for w in where), name, str(row["seeds"]), *(f"{x:.4f}" for x in values)]
        for row in rows
        for name, values in row["summaries"].items()
    ]
