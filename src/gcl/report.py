"""Write the tables, the figures and the page from all scores.

In:  <results>/{scores,runs,embeddings,checkpoints,prepared}/ of everything the config asks for.
Out: <results>/scores.csv, metrics.json, tables/, figures/, report.html.
"""

import csv
import json
import math
from pathlib import Path
from typing import Any

from gcl.checkpoints import read_curves
from gcl.command import parser, run
from gcl.config import Config, Experiment, Project, experiment_of, load, runs_of
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
from gcl.items import PreparedBenchmark, Task, read_benchmark
from gcl.layout import place
from gcl.page import Pictures, gallery, inline_figures, page, table_html
from gcl.progress import progress
from gcl.protocols import Benchmark
from gcl.published import Published, chosen, read_published
from gcl.score import COLUMNS, write_csv
from gcl.sources import Dataset
from gcl.strict import from_json, to_json
from gcl.tables import (
    Result,
    averages,
    csv_rows,
    difference,
    full_rows,
    full_table,
    latex,
    markdown,
    measure_table,
    parts,
    pools_of,
    read_result,
    summarise,
)
from gcl.views import first_rankings, units_of, view_recipe

GALLERY_QUERIES = 3  # per task
DRAWN_ITEMS = 100_000
HIDDEN_OPTIONS = ("tasks", "mixed", "annotations")  # say what is read, not how
ABOUT_POOLS = """The global pool holds
candidates of all three modalities, a local pool those of one. """
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


def read_results(config: Config, results: Path, benchmark: str, tasks: list[Task]) -> list[Result]:
    """Read the per-query results of every backbone and recipe, of each task its headline."""
    measure_of = {task.name: task.headline or "" for task in tasks}
    return [
        read_result(results / "scores" / backbone / recipe / benchmark, backbone, recipe, measure_of)
        for backbone, recipe in runs_of(config)
    ]


def summary(
    title: str, measure: str, results: list[Result], gaps: dict[str, float], bench: PreparedBenchmark, config: Config
) -> str:
    """Write the short table: each recipe with and without calibration, its modality gap, and paired steps."""
    tasks = bench.tasks
    pools = pools_of(tasks)
    columns = [(pool, mode) for pool in pools for mode in ("none", "center_zscore")]
    cells = []
    for result in results:
        modes = experiment_of(config, result.recipe).calibrations
        row = [f"{result.backbone} {result.recipe}"]
        for pool, mode in columns:
            found = parts(result, averages(tasks, pool)["mean"], pool, mode) if mode in modes else None
            row.append("–" if found is None else summarise(found, config.resamples).long())
        gap = gaps[f"{result.backbone}/{result.recipe}"]
        cells.append([*row, f"{gap:.2f}" if math.isfinite(gap) else "–"])
    header = ["recipe", *(pool if mode == "none" else f"{pool}, {mode}" for pool, mode in columns), "modality gap"]
    about = ABOUT_POOLS if set(pools) == {"global", "local"} else ""
    return f"""# {title}: {measure}, mean of {len(tasks)} tasks

Percent; mean over seeds ± deviation over seeds [95 % bootstrap interval over {query_counts(bench)} queries per task]. {about}center_zscore is a calibration of scores without training.

{markdown(header, cells)}
## Steps

Paired differences in percentage points, {pools[0]} pool, no calibration: the same resampled queries on both sides.

{markdown(["step", "difference"], steps(results, tasks, pools[0], config))}"""


def query_counts(bench: PreparedBenchmark) -> str:
    """Say how many queries the tasks have, those included that could not be used."""
    counts = {len(bench.tables[task.queries].ids) + len(bench.missing[task.name]) for task in bench.tasks}
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def steps(results: list[Result], tasks: list[Task], pool: str, config: Config) -> list[list[str]]:
    """Return the paired difference of each recipe to its experiment's baseline."""
    rows = []
    weights = averages(tasks, pool)["mean"]
    for backbone in config.backbones:
        by_recipe = {r.recipe: parts(r, weights, pool, "none") for r in results if r.backbone == backbone}
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
    name: str,
    row: Benchmark,
    rows: list[dict[str, Any]],
    lines: list[list[str]],
    bench: PreparedBenchmark,
    published: list[Published],
) -> str:
    """Write <benchmark>.md, .csv and .tex; return the Markdown."""
    alias = row.aliases.get(row.headline, "")
    missing = sum(map(len, bench.missing.values()))
    lost = f" Queries that could not be used and count as misses: {missing}." if missing else ""
    body = [
        f"# {row.title}: {row.headline} ({alias})" if alias else f"# {row.title}: {row.headline}",
        f"Percent; mean over seeds ± deviation over seeds.{lost} The mean of tasks has a 95 % bootstrap interval; those of single tasks are in the CSV. Data: {rows[0]['data']}.",
    ]
    tex = []
    for pool in pools_of(bench.tasks):
        others = chosen(published, name, pool)
        header, cells = full_table(rows, pool, others)
        body += [f"## {pool} pool", markdown(header, cells)]
        tex += [f"% {row.title}, {row.headline}, {pool} pool", latex(header, cells)]
        for average in ("mean", "data sets"):
            if weights := averages(bench.tasks, pool).get(average):
                header, cells = measure_table(lines, weights, pool, row.measures, others if average == "mean" else [])
                body += [f"{pool} pool by measure, {'mean of tasks' if average == 'mean' else 'mean of data sets'}:"]
                body += [markdown(header, cells)]
                tex += [f"% by measure, {average}", latex(header, cells)]
    if sources := sorted({(p.label(), p.source) for p in published if p.benchmark == name}):
        body.append(
            "Published: "
            + "; ".join(f"{label}: {source}" for label, source in sources)
            + ". † taken from a summary of the publication, not from itself. Protocols differ: a line is no ranking by itself."
        )
    (folder / f"{name}.md").write_text("\n\n".join(body) + "\n")
    (folder / f"{name}.tex").write_text("\n".join(tex))
    write_csv(folder / f"{name}.csv", *csv_rows(rows))  # type: ignore[arg-type]
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
        found = {
            r["recipe"]: r
            for r in rows
            if r["backbone"] == backbone and r["recipe"] in shown and r["pool"] == pool and r["calibration"] == "none"
        }
        task_bars(folder, {n: {t: row["summaries"][t] for t in tasks} for n, row in found.items()}, pool, measure)
    points: dict[str, dict[float, Any]] = {}
    for result in results:
        if result.backbone == backbone and (loss := loss_name(result.recipe)):
            temperature = project.recipes[result.recipe].loss.temperature
            points.setdefault(loss, {})[float(temperature)] = summarise(
                parts(result, averages(bench.tasks, "global")["mean"], "global", "none"), config.resamples
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
            place(project, backbone, recipe, benchmark),
            project.backbones[backbone].fusion,
            bench,
        )
        for recipe in progress(config.experiments[0].recipes, "read runs", "recipe")
    ]


def collect_gaps(project: Project, benchmark: str, bench: PreparedBenchmark) -> dict[str, float]:
    """Return the modality gap of every backbone and recipe, keyed backbone/recipe; NaN without images or texts."""
    config = project.config
    return {
        f"{backbone}/{recipe}": gap(
            units_of(place(project, backbone, recipe, benchmark), project.backbones[backbone].fusion, bench)
        )
        for backbone, recipe in runs_of(config)
    }


def protocols(project: Project, row: Benchmark, bench: PreparedBenchmark) -> dict[str, dict[str, str]]:
    """Say by backbone how the numbers of a benchmark came about."""
    said = ", ".join(f"{key} {value}" for key, value in row.options.items() if key not in HIDDEN_OPTIONS)
    data = revision(row.dataset, project.datasets[row.dataset])
    return {
        name: {
            "protocol": said,
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


def is_drawn(bench: PreparedBenchmark) -> bool:
    """Tell whether figures and examples are made: the benchmark has both pools and is not too large for them."""
    items = sum(len(table.ids) for table in bench.tables.values())
    return items <= DRAWN_ITEMS and all({"local", "global"} <= set(task.pools) for task in bench.tasks)


def report_benchmark(
    project: Project,
    results: Path,
    benchmark: str,
    lines: list[list[str]],
    published: list[Published],
    tables: Path,
    figures: Path,
    pictures: Pictures,
) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Write tables and figures of one benchmark; return the sections of its page and the means of its tasks."""
    config, row = project.config, project.benchmarks[benchmark]
    bench = read_benchmark(results / "prepared" / benchmark)
    found = read_results(config, results, benchmark, bench.tasks)
    gaps = collect_gaps(project, benchmark, bench)
    rows = full_rows(found, bench.tasks, config, protocols(project, row, bench))
    text = summary(row.title, row.headline, found, gaps, bench, config)
    with (tables / "summary.md").open("a") as file:
        file.write(text)
    own = [line for line in lines if line[3] == benchmark]
    numbers = write_tables(tables, benchmark, row, rows, own, bench, published)
    sections = [(row.title, table_html(text))]
    backbone, shown = config.backbones[0], config.experiments[0].recipes
    if benchmark == config.benchmarks[0] and is_drawn(bench):
        views = collect_views(project, results, benchmark, bench)
        with styled():
            names = write_figures(figures, project, found, views, rows, bench, results, row.headline)
        sections.append(("Figures", inline_figures(figures, {name: CAPTIONS[name] for name in names})))
    if is_drawn(bench):
        recipes = dict.fromkeys([shown[0], *shown[1:2], shown[-1]])
        tops = {r: first_rankings(results / "runs" / backbone / r / f"{benchmark}.parquet", bench) for r in recipes}
        examples = gallery(results / "prepared" / benchmark, bench, tops, GALLERY_QUERIES, pictures)
        sections.append((f"What {row.title} finds", examples))
    sections.append((f"All numbers of {row.title}", table_html(numbers)))
    return sections, means(rows)


def means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return backbone -> recipe -> calibration -> pool -> percent, for `dvc metrics`."""
    found: dict[str, Any] = {}
    for row in rows:
        by_recipe = found.setdefault(row["backbone"], {}).setdefault(row["recipe"], {})
        by_recipe.setdefault(row["calibration"], {})[row["pool"]] = round(row["summaries"]["mean"].mean, 4)
    return found


def report(config: Config, registries: Path) -> None:
    """Write everything of the report; each output appears whole."""
    project = load(from_config(config), registries)
    results = Path(config.results)
    pictures = Pictures()
    sections: list[tuple[str, str]] = []
    metrics: dict[str, Any] = {}
    lines, published = merge_scores(config, results), read_published(registries / "published.yaml")
    with atomic_path(results / "tables") as tables, atomic_path(results / "figures") as figures:
        tables.mkdir()
        figures.mkdir()
        for benchmark in config.benchmarks:
            made, metrics[benchmark] = report_benchmark(
                project, results, benchmark, lines, published, tables, figures, pictures
            )
            sections += made
    write_json(results / "metrics.json", metrics)
    with atomic_path(results / "scores.csv") as path:
        write_csv(path, COLUMNS, lines)  # type: ignore[arg-type]
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
