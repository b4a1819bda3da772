"""Write the tables, the figures and the page from all scores.

In:  <results>/{scores,runs,embeddings,checkpoints,prepared}/ of everything the config asks for.
Out: <results>/scores.csv, metrics.json, tables/, figures/, report.html.
"""

import csv
import json
from pathlib import Path
from typing import Any

from gcl.checkpoints import read_curves
from gcl.command import parser, run
from gcl.config import Config, Experiment, Project, experiment_of, from_json, load, runs_of, to_json
from gcl.figures import (
    View,
    cosines,
    gap,
    loss_name,
    modality_shares,
    projections,
    rank_curves,
    styled,
    task_bars,
    temperatures,
    training_curves,
)
from gcl.files import atomic_path, write_json
from gcl.page import Pictures, gallery, inline_figures, page, table_html
from gcl.progress import progress
from gcl.records import PreparedBenchmark, read_benchmark
from gcl.score import COLUMNS, write_csv
from gcl.tables import Result, average, csv_rows, difference, full_rows, full_table, markdown, read_result, summarise
from gcl.views import first_rankings, units_of, view_recipe

GALLERY_QUERIES = 3  # per task
CAPTIONS = {
    "tasks_global": "Each task in the global pool, where candidates of all three modalities compete. Query→candidate; i image, t text, it both.",
    "tasks_local": "Each task in its local pool, where all candidates have the relevant modality.",
    "temperature": "Mean of the tasks in the global pool against the temperature of training, 30 epochs each.",
    "projection": "Candidates of the three modalities on their first two principal components, and the distance of the image and text centroids.",
    "modalities": "Which modalities fill the top 10 of the global pool.",
    "ranks": "Queries whose first hit is at rank k or better.",
    "cosines": "Cosines of queries with their positives (red line) and with all other candidates of that modality (grey).",
    "curves": "Training loss by step, one line per seed. Losses with different denominators are not comparable.",
}


def merge_scores(config: Config, results: Path) -> list[list[str]]:
    """Return the lines of every scores.csv, in the order of the config."""
    lines = []
    for backbone, recipe in runs_of(config):
        for benchmark in config.benchmarks:
            with (results / "scores" / backbone / recipe / benchmark / "scores.csv").open(newline="") as file:
                header, *body = csv.reader(file)
            if tuple(header) != COLUMNS:
                raise ValueError(f"{file.name} has columns {header}, expected {list(COLUMNS)}; run `score` again")
            lines += body
    return lines


def read_results(config: Config, results: Path, benchmark: str, measure: str) -> list[Result]:
    """Read the per-query results of every backbone and recipe."""
    return [
        read_result(results / "scores" / backbone / recipe / benchmark, backbone, recipe, measure)
        for backbone, recipe in runs_of(config)
    ]


def summary(
    title: str, measure: str, results: list[Result], gaps: dict[str, float], bench: PreparedBenchmark, config: Config
) -> str:
    """Write the short table: each recipe with and without calibration, its modality gap, and paired steps."""
    tasks = [task.name for task in bench.tasks]
    queries = len(bench.tables[bench.tasks[0].queries].ids)
    cells = []
    for result in results:
        modes = experiment_of(config, result.recipe).calibrations
        row = [f"{result.backbone} {result.recipe}"]
        for pool, mode in (
            ("global", "none"),
            ("global", "center_zscore"),
            ("local", "none"),
            ("local", "center_zscore"),
        ):
            values = average(result, tasks, pool, mode) if mode in modes else None
            row.append("–" if values is None else summarise(values, config.resamples).long())
        cells.append([*row, f"{gaps[f'{result.backbone}/{result.recipe}']:.2f}"])
    header = ["recipe", "global", "global, center_zscore", "local", "local, center_zscore", "modality gap"]
    text = f"""# {title}: {measure}, mean of {len(tasks)} tasks

Percent; mean over seeds ± deviation over seeds [95 % bootstrap interval over {queries} queries per task]. The global pool holds
candidates of all three modalities, a local pool those of one. center_zscore is a calibration of scores without training.

{markdown(header, cells)}
## Steps

Paired differences in percentage points, global pool, no calibration: the same resampled queries on both sides.

{markdown(["step", "difference"], steps(results, tasks, config))}"""
    return text


def steps(results: list[Result], tasks: list[str], config: Config) -> list[list[str]]:
    """Return the paired difference of each recipe to its experiment's baseline."""
    rows = []
    for backbone in config.backbones:
        by_recipe = {r.recipe: average(r, tasks, "global", "none") for r in results if r.backbone == backbone}
        for experiment in config.experiments:
            for after in experiment.recipes:
                before = baseline_of(after, experiment)
                if before is not None and after in by_recipe:
                    moved = difference(by_recipe[after], by_recipe[before], config.resamples)
                    rows.append([f"{backbone} {before} → {after}", moved.long()])
    return rows


def baseline_of(recipe: str, experiment: Experiment) -> str | None:
    """Return the recipe that `recipe` is compared with, or None."""
    at = experiment.recipes.index(recipe)
    if experiment.baseline == "previous":
        return experiment.recipes[at - 1] if at else None
    return experiment.baseline if experiment.baseline != recipe else None


def write_tables(
    folder: Path,
    benchmark: str,
    title: str,
    measure: str,
    alias: str,
    text: str,
    rows: list[dict[str, Any]],
    bench: PreparedBenchmark,
) -> str:
    """Write <benchmark>.md and .csv and summary.md; return the long table's Markdown."""
    name = f"{measure} ({alias})" if alias else measure
    body = [
        f"# {title}: {name}",
        "Percent; mean over seeds ± deviation over seeds. The mean of tasks has a 95 % bootstrap interval; those of single tasks are in the CSV.",
    ]
    for pool in bench.tasks[0].pools:
        body += [f"## {pool} pool", full_table(rows, bench, pool)]
    (folder / f"{benchmark}.md").write_text("\n\n".join(body))
    write_csv(folder / f"{benchmark}.csv", *csv_rows(rows, bench))  # type: ignore[arg-type]
    with (folder / "summary.md").open("a") as file:
        file.write(text)
    return "\n\n".join(body[1:])


def write_figures(
    folder: Path,
    project: Project,
    results: list[Result],
    views: list[View],
    rows: list[dict[str, Any]],
    bench: PreparedBenchmark,
    paths: Path,
    measure: str,
) -> list[str]:
    """Draw every figure for the first backbone and the first experiment; return the names."""
    config = project.config
    backbone, shown = config.backbones[0], config.experiments[0].recipes
    tasks = [task.name for task in bench.tasks]
    for pool in bench.tasks[0].pools:
        chosen = {
            r["recipe"]: r
            for r in rows
            if r["backbone"] == backbone and r["recipe"] in shown and r["pool"] == pool and r["calibration"] == "none"
        }
        task_bars(folder, {name: {t: row[t] for t in tasks} for name, row in chosen.items()}, pool, measure)
    points: dict[str, dict[float, Any]] = {}
    for result in results:
        if result.backbone == backbone and (loss := loss_name(result.recipe)):
            temperature = project.recipes[result.recipe].loss.temperature
            points.setdefault(loss, {})[float(temperature)] = summarise(
                average(result, tasks, "global", "none"), config.resamples
            )
    names = ["tasks_global", "tasks_local"]
    if points:
        temperatures(folder, points, measure)
        names.append("temperature")
    projections(folder, views)
    modality_shares(folder, views)
    rank_curves(folder, views, config.depth)
    cosines(folder, views)
    training_curves(folder, {recipe: read_curves(paths / "checkpoints" / backbone / recipe) for recipe in shown})
    return [*names, "projection", "modalities", "ranks", "cosines", "curves"]


def collect_views(project: Project, results: Path, benchmark: str, bench: PreparedBenchmark) -> list[View]:
    """Read the embeddings and rankings of the first backbone's recipes in the first experiment."""
    config = project.config
    backbone = config.backbones[0]
    return [
        view_recipe(
            recipe,
            results / "runs" / backbone / recipe / f"{benchmark}.parquet",
            results / "embeddings" / backbone / recipe / benchmark,
            project.backbones[backbone].fusion,
            bench,
        )
        for recipe in progress(config.experiments[0].recipes, "read runs", "recipe")
    ]


def collect_gaps(project: Project, results: Path, benchmark: str, bench: PreparedBenchmark) -> dict[str, float]:
    """Return the modality gap of every backbone and recipe, keyed backbone/recipe."""
    config = project.config
    return {
        f"{backbone}/{recipe}": gap(
            units_of(results / "embeddings" / backbone / recipe / benchmark, project.backbones[backbone].fusion, bench)
        )
        for backbone, recipe in runs_of(config)
    }


def report_benchmark(
    project: Project, results: Path, benchmark: str, tables: Path, figures: Path, pictures: Pictures
) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Write tables and figures of one benchmark; return the sections of its page and the means of its tasks."""
    config, row = project.config, project.benchmarks[benchmark]
    bench = read_benchmark(results / "prepared" / benchmark)
    found = read_results(config, results, benchmark, row.headline)
    gaps = collect_gaps(project, results, benchmark, bench)
    rows = full_rows(found, bench, config)
    text = summary(row.title, row.headline, found, gaps, bench, config)
    numbers = write_tables(
        tables, benchmark, row.title, row.headline, row.aliases.get(row.headline, ""), text, rows, bench
    )
    sections = [(row.title, table_html(text))]
    backbone, shown = config.backbones[0], config.experiments[0].recipes
    if benchmark == config.benchmarks[0]:
        views = collect_views(project, results, benchmark, bench)
        with styled():
            names = write_figures(figures, project, found, views, rows, bench, results, row.headline)
        sections.append(("Figures", inline_figures(figures, {name: CAPTIONS[name] for name in names})))
    chosen = dict.fromkeys([shown[0], *shown[1:2], shown[-1]])
    tops = {r: first_rankings(results / "runs" / backbone / r / f"{benchmark}.parquet", bench) for r in chosen}
    sections.append(
        (f"What {row.title} finds", gallery(results / "prepared" / benchmark, bench, tops, GALLERY_QUERIES, pictures))
    )
    sections.append((f"All numbers of {row.title}", table_html(numbers)))
    return sections, means(rows)


def means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return backbone -> recipe -> calibration -> pool -> percent, for `dvc metrics`."""
    found: dict[str, Any] = {}
    for row in rows:
        by_recipe = found.setdefault(row["backbone"], {}).setdefault(row["recipe"], {})
        by_recipe.setdefault(row["calibration"], {})[row["pool"]] = round(row["mean"].mean, 4)
    return found


def report(config: Config, registries: Path) -> None:
    """Write everything of the report; each output appears whole."""
    project = load(from_config(config), registries)
    results = Path(config.results)
    pictures = Pictures()
    sections: list[tuple[str, str]] = []
    metrics: dict[str, Any] = {}
    with atomic_path(results / "tables") as tables, atomic_path(results / "figures") as figures:
        tables.mkdir()
        figures.mkdir()
        for benchmark in config.benchmarks:
            made, metrics[benchmark] = report_benchmark(project, results, benchmark, tables, figures, pictures)
            sections += made
    write_json(results / "metrics.json", metrics)
    with atomic_path(results / "scores.csv") as path:
        write_csv(path, COLUMNS, merge_scores(config, results))  # type: ignore[arg-type]
    with atomic_path(results / "report.html") as path:
        path.write_text(page("Generalized contrastive learning for universal multimodal retrieval", sections, pictures))


def from_config(config: Config) -> dict[str, Any]:
    """Return a config as the plain dict that `load` checks."""
    value: dict[str, Any] = json.loads(to_json(config))
    return value


def main() -> None:
    """Run from the command line."""
    made = parser("report", __doc__, "--config '{...}' --registries config")
    made.add_argument("--config", required=True, type=from_json(Config), help="config.yaml as JSON")
    made.add_argument("--registries", type=Path, default=Path("config"), help="folder of backbones.yaml and the others")
    run(made, report)


if __name__ == "__main__":
    main()
