"""The tables of a report as Markdown, CSV and LaTeX: strings from results, and files from strings."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from gcl.common.csv_files import write_csv
from gcl.common.markup import latex, markdown
from gcl.config.benchmarks import Benchmark
from gcl.config.datasets import Dataset
from gcl.config.project import Config, Experiment, Project, experiment_of
from gcl.config.published import Published, chosen
from gcl.data.items import Task
from gcl.data.prepared import PreparedBenchmark
from gcl.report.tables import csv_rows, full_table, measure_table
from gcl.score.statistics import Result, averages, difference, of_seeds, pools_of, summarise, weighted_results

HIDDEN_OPTIONS = ("tasks", "mixed", "annotations")  # say what is read, not how
SHOWN_CALIBRATION = "center_zscore"  # beside none, in the summary
SECOND_STAGES = {  # beside both
    "rerank": "rerank ranks its first 50 again",
    "joint": "joint its first 20",
    "adapter": "adapter its first 20",
}
ABOUT_POOLS = """The global pool holds
candidates of {all} modalities, a local pool those of one. """


class Section(NamedTuple):
    """What the tables show of one benchmark."""

    name: str
    row: Benchmark
    tasks: list[Task]
    missing: int  # queries that could not be used
    rows: list[dict[str, Any]]  # of full_rows
    lines: list[list[str]]  # of scores.csv


def summary(
    title: str, measure: str, results: list[Result], gaps: dict[str, float], bench: PreparedBenchmark, config: Config
) -> str:
    """Write the short table: each recipe with and without calibration, its modality gap, and paired steps."""
    tasks = bench.tasks
    pools = pools_of(tasks)
    shown = shown_modes(config)
    columns = [(pool, mode) for pool in pools for mode in shown]
    cells = []
    for result in results:
        modes = experiment_of(config, result.recipe).calibrations
        row = [f"{result.backbone} {result.recipe}"]
        for pool, mode in columns:
            weighted = weighted_results(result, averages(tasks, pool)["mean"], pool, mode) if mode in modes else None
            row.append("–" if weighted is None else summarise(weighted, config.resamples, bench.clusters).long())
        gap = gaps[f"{result.backbone}/{result.recipe}"]
        cells.append([*row, f"{gap:.2f}" if math.isfinite(gap) else "–"])
    header = ["recipe", *(pool if mode == "none" else f"{pool}, {mode}" for pool, mode in columns), "modality gap"]
    modalities = len({task.candidate_modality for task in tasks})
    has_both = set(pools) == {"global", "local"}
    again = "".join(f"; {SECOND_STAGES[name]}" for name in shown if name in SECOND_STAGES)
    about = ABOUT_POOLS.format(all="all three" if modalities == 3 else "both") if has_both and modalities > 1 else ""
    return f"""# {title}: {measure}, mean of {len(tasks)} tasks

Percent; mean over seeds ± deviation over seeds [95 % bootstrap interval over {query_counts(bench)} queries per task{in_clusters(bench)}]. {about}{SHOWN_CALIBRATION} is a calibration of scores without training{again}.

{highest(cells, columns)}

{markdown(header, cells)}
## Steps

Paired differences in percentage points, {pools[0]} pool: the same resampled queries on both sides.

{markdown(["step", "difference", *(f"difference, {mode}" for mode in shown[1:])], steps(results, bench, pools[0], config))}"""


def highest(cells: list[list[str]], columns: list[tuple[str, str]]) -> str:
    """Say which recipe leads each pool, by the means alone."""
    lines = []
    for pool in dict.fromkeys(pool for pool, _ in columns):
        places = [(row, column) for row in cells for column, (p, _) in enumerate(columns, 1) if p == pool]
        row, column = max(places, key=lambda place: float(place[0][place[1]].split()[0].replace("–", "-inf")))
        mode = columns[column - 1][1]
        lines.append(f"{pool} pool, **{row[0]}**{'' if mode == 'none' else f' with {mode}'}: {row[column]}")
    return f"Highest: {'; '.join(lines)}."


def shown_modes(config: Config) -> tuple[str, ...]:
    """Return the calibrations that the summary shows."""
    used = {name for experiment in config.experiments for name in experiment.calibrations}
    return ("none", SHOWN_CALIBRATION, *(name for name in SECOND_STAGES if name in used))


def in_clusters(bench: PreparedBenchmark) -> str:
    """Say in how many groups the queries are drawn, where they hang together."""
    return f" in {len(set(bench.clusters))} groups" if bench.clusters else ""


def query_counts(bench: PreparedBenchmark) -> str:
    """Say how many queries the tasks have, those included that could not be used."""
    counts = {len(bench.tables[task.queries].ids) + len(bench.missing[task.name]) for task in bench.tasks}
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def steps(results: list[Result], bench: PreparedBenchmark, pool: str, config: Config) -> list[list[str]]:
    """Return the paired difference of each recipe to its experiment's baseline, plain and calibrated."""
    rows = []
    weights = averages(bench.tasks, pool)["mean"]
    for backbone in config.backbones:
        by_recipe = {r.recipe: r for r in results if r.backbone == backbone}
        for experiment in config.experiments:
            for after in experiment.recipes:
                before = baseline_of(after, experiment)
                if before is not None and {before, after} <= by_recipe.keys():
                    pair = by_recipe[after], by_recipe[before]
                    common = sorted(set(pair[0].seeds) & set(pair[1].seeds))
                    row = [f"{backbone} {before} → {after}"]
                    for mode in shown_modes(config):
                        if any(mode not in experiment_of(config, name).calibrations for name in (before, after)):
                            row.append("–")
                            continue
                        a, b = (weighted_results(of_seeds(result, common), weights, pool, mode) for result in pair)
                        row.append(difference(a, b, config.resamples, bench.clusters).long())
                    rows.append(row)
    return rows


def baseline_of(recipe: str, experiment: Experiment) -> str | None:
    """Return the recipe that `recipe` is compared with, or None."""
    at = experiment.recipes.index(recipe)
    if experiment.baseline == "previous":
        return experiment.recipes[at - 1] if at else None
    return experiment.baseline if experiment.baseline != recipe else None


def tables_of(sections: Iterable[Section]) -> dict[str, list[list[Section]]]:
    """Return by table its groups of benchmarks that stand side by side: those with the same tasks and pools."""
    tables: dict[str, list[list[Section]]] = {}
    for section in sections:
        groups = tables.setdefault(section.row.table or section.name, [])
        shape = [(task.name, tuple(task.pools)) for task in section.tasks]
        same = (g for g in groups if [(t.name, tuple(t.pools)) for t in g[0].tasks] == shape)
        group = next(same, None)
        if group is None:
            groups.append([section])
        else:
            group.append(section)
    return tables


def write_table(folder: Path, name: str, groups: list[list[Section]], published: list[Published]) -> str:
    """Write <name>.md, .csv and .tex of the benchmarks that share a table; return the Markdown."""
    parts_of = [group_tables(group, published) for group in groups]
    text = "\n\n".join(paragraph for body, _ in parts_of for paragraph in body)
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    (folder / f"{name}.tex").write_text("\n".join(line for _, tex in parts_of for line in tex), encoding="utf-8")
    rows = [row for group in groups for section in group for row in section.rows]
    write_csv(folder / f"{name}.csv", *csv_rows(rows))  # type: ignore[arg-type]
    return text


def group_tables(group: list[Section], published: list[Published]) -> tuple[list[str], list[str]]:
    """Return the paragraphs of Markdown and the lines of LaTeX of benchmarks that stand side by side."""
    first = group[0]
    row, names = first.row, [section.name for section in group]
    rows = [line for section in group for line in section.rows]
    alias = row.aliases.get(row.headline, "")
    body = [f"# {row.title}: {row.headline} ({alias})" if alias else f"# {row.title}: {row.headline}", data_note(group)]
    tex = []
    protocol = {section.name: section.rows[0]["protocol"] for section in group}
    lines = [line for section in group for line in section.lines]
    for pool in pools_of(first.tasks):
        others = [other for name in names for other in chosen(published, name, pool)]
        header, cells = full_table(rows, pool, others)
        body += [f"## {pool} pool", markdown(header, cells)]
        tex += [f"% {row.title}, {row.headline}, {pool} pool", latex(header, cells)]
        for average in ("mean", "data sets"):
            if weights := averages(first.tasks, pool).get(average):
                shown = others if average == "mean" else []
                header, cells = measure_table(lines, protocol, weights, pool, row.measures, shown)
                body += [f"{pool} pool by measure, {'mean of tasks' if average == 'mean' else 'mean of data sets'}:"]
                body += [markdown(header, cells)]
                tex += [f"% by measure, {average}", latex(header, cells)]
    if sources := sorted({(p.label(), p.source) for p in published if p.benchmark in names}):
        body.append(
            "Published: "
            + "; ".join(f"{label}: {source}" for label, source in sources)
            + ". † taken from a summary of the publication, not from itself. Protocols differ: a line is no ranking by itself."
        )
    return body, tex


def data_note(group: list[Section]) -> str:
    """Say what the numbers of a group are and what they were made of."""
    missing = sorted({section.missing for section in group})
    lost = (
        f" Queries that could not be used and count as misses: {' or '.join(map(str, missing))}."
        if any(missing)
        else ""
    )
    data = ", ".join(dict.fromkeys(section.rows[0]["data"] for section in group))
    return (
        f"Percent; mean over seeds ± deviation over seeds.{lost} The mean of tasks has a 95 % bootstrap interval; "
        f"those of single tasks are in the CSV. Data: {data}."
    )


def protocols(project: Project, row: Benchmark, bench: PreparedBenchmark) -> dict[str, dict[str, str]]:
    """Say by backbone how the numbers of a benchmark came about."""
    protocol = ", ".join(f"{key} {value}" for key, value in row.options.items() if key not in HIDDEN_OPTIONS)
    data = revision(row.dataset, project.datasets[row.dataset])
    return {
        name: {
            "protocol": protocol,
            "fusion": project.backbones[name].fusion,
            "queries": query_counts(bench),
            "data": data,
        }
        for name in project.config.backbones
    }


def revision(name: str, dataset: Dataset) -> str:
    """Name a data set with what pins it: its commits on a hub, or the start of its files' hashes."""
    commits = {file.hub.partition("@")[2].partition("/")[0] for file in dataset.files if file.hub}
    hashes = {file.sha256[:12] for file in dataset.files if file.sha256}
    return " ".join([name, *sorted(commits or hashes)])
