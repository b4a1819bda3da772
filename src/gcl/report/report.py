"""Write the tables, the figures and the page from all scores.

In:  <results>/{scores,runs,embeddings,checkpoints,prepared}/ of everything the config asks for; <results>/benchmarks/.
Out: <results>/scores.csv, metrics.json, tables/, figures/, report.html.
"""

import csv
from pathlib import Path
from typing import Any

from gcl.common.command import parser, run
from gcl.common.csv_files import write_csv
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, write_json
from gcl.common.progress import progress
from gcl.common.rows import from_json
from gcl.config.paths import place
from gcl.config.project import Config, Project, as_dict, load, runs_of
from gcl.config.published import read_published
from gcl.data.items import Task
from gcl.data.prepared import PreparedBenchmark, read_benchmark
from gcl.models.weights.checkpoints import read_curves
from gcl.report.compare import compare
from gcl.report.figure_data import View, first_rankings, gap, units_of, view_recipe
from gcl.report.figures import Shown, draw_all, loss_name
from gcl.report.html import Pictures, gallery, inline_figures, page, table_html
from gcl.report.performance import write_performance
from gcl.report.sections import Section, protocols, summary, tables_of, write_table
from gcl.report.tables import full_rows
from gcl.report.verify import read_config, verify
from gcl.score.score import COLUMNS
from gcl.score.statistics import Result, Summary, averages, read_result, summarise, weighted_results

GALLERY_QUERIES = 3  # per task
DRAWN_ITEMS = 100_000


def merge_scores(config: Config, results: Path) -> list[list[str]]:
    """Return the lines of every scores.csv, in the order of the config."""
    lines = []
    for backbone, recipe in runs_of(config):
        for benchmark in config.benchmarks:
            with (results / "scores" / backbone / recipe / benchmark / "scores.csv").open(
                newline="", encoding="utf-8"
            ) as file:
                header, *body = csv.reader(file)
            if tuple(header) != COLUMNS:
                raise UserError(f"{file.name} has columns {header}, expected {list(COLUMNS)}; run `score` again")
            lines += body
    return lines


def read_results(config: Config, results: Path, benchmark: str, tasks: list[Task]) -> list[Result]:
    """Read the per-query results of every backbone and recipe, of each task its headline."""
    measure_of = {task.name: task.headline or "" for task in tasks}
    return [
        read_result(results / "scores" / backbone / recipe / benchmark, backbone, recipe, measure_of)
        for backbone, recipe in runs_of(config)
    ]


def collect_shown(
    project: Project,
    scored: list[Result],
    rows: list[dict[str, Any]],
    bench: PreparedBenchmark,
    benchmark: str,
) -> Shown:
    """Collect what the figures show."""
    config, results = project.config, Path(project.config.results)
    backbone, recipes = config.backbones[0], config.experiments[0].recipes
    row, tasks = project.benchmarks[benchmark], [task.name for task in bench.tasks]
    summaries: dict[str, dict[str, dict[str, Summary]]] = {}
    for r in rows:
        if r["backbone"] == backbone and r["recipe"] in recipes and r["calibration"] == "none":
            summaries.setdefault(r["pool"], {})[r["recipe"]] = {task: r["summaries"][task] for task in tasks}
    points: dict[str, dict[float, Summary]] = {}
    for result in scored:
        if result.backbone == backbone and (loss := loss_name(result.recipe)):
            temperature = project.recipes[result.recipe].loss.temperature
            points.setdefault(loss, {})[float(temperature)] = summarise(
                weighted_results(result, averages(bench.tasks, "global")["mean"], "global", "none"),
                config.resamples,
                bench.clusters,
            )
    curves = {recipe: read_curves(results / "checkpoints" / backbone / recipe) for recipe in recipes}
    views = collect_views(project, results, benchmark, bench)
    return Shown(views, summaries, points, curves, config.depth, row.headline)


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


def is_drawn(bench: PreparedBenchmark) -> bool:
    """Tell whether figures and examples are made: the benchmark has both pools and is not too large for them."""
    items = sum(len(table.ids) for table in bench.tables.values())
    return items <= DRAWN_ITEMS and all({"local", "global"} <= set(task.pools) for task in bench.tasks)


def report_benchmark(
    project: Project,
    results: Path,
    benchmark: str,
    lines: list[list[str]],
    tables: Path,
    figures: Path,
    pictures: Pictures,
) -> tuple[list[tuple[str, str]], Section]:
    """Write the summary and the figures of one benchmark; return the sections of its page, and what its tables show."""
    config, row = project.config, project.benchmarks[benchmark]
    bench = read_benchmark(results / "prepared" / benchmark)
    scored = read_results(config, results, benchmark, bench.tasks)
    gaps = collect_gaps(project, benchmark, bench)
    rows = full_rows(benchmark, scored, bench, config, protocols(project, row, bench))
    text = summary(row.title, row.headline, scored, gaps, bench, config)
    with (tables / "summary.md").open("a", encoding="utf-8") as file:
        file.write(text)
    own = [line for line in lines if line[3] == benchmark]
    sections = [(row.title, table_html(text))]
    backbone, shown = config.backbones[0], config.experiments[0].recipes
    if benchmark == config.benchmarks[0] and is_drawn(bench):
        captions = draw_all(figures, collect_shown(project, scored, rows, bench, benchmark))
        sections.append(("Figures", inline_figures(figures, captions)))
    if is_drawn(bench):
        recipes = dict.fromkeys([shown[0], *shown[1:2], shown[-1]])
        tops = {r: first_rankings(results / "runs" / backbone / r / f"{benchmark}.parquet", bench) for r in recipes}
        examples = gallery(results / "prepared" / benchmark, bench, tops, GALLERY_QUERIES, pictures)
        sections.append((f"What {row.title} finds", examples))
    missing = sum(map(len, bench.missing.values()))
    return sections, Section(benchmark, row, bench.tasks, missing, rows, own)


def means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return backbone -> recipe -> calibration -> pool -> percent, for `dvc metrics`."""
    by_backbone: dict[str, Any] = {}
    for row in rows:
        by_recipe = by_backbone.setdefault(row["backbone"], {}).setdefault(row["recipe"], {})
        by_recipe.setdefault(row["calibration"], {})[row["pool"]] = round(row["summaries"]["mean"].mean, 4)
    return by_backbone


def report(config: Config, registries: Path) -> None:
    """Write everything of the report; each output appears whole."""
    project = load(as_dict(config), registries)
    results = Path(config.results)
    pictures = Pictures()
    shown: list[tuple[str, str]] = []
    sections: list[Section] = []
    lines, published = merge_scores(config, results), read_published(registries / "published.yaml")
    with atomic_path(results / "tables") as tables, atomic_path(results / "figures") as figures:
        tables.mkdir()
        figures.mkdir()
        for benchmark in config.benchmarks:
            shown_here, section = report_benchmark(project, results, benchmark, lines, tables, figures, pictures)
            shown += shown_here
            sections.append(section)
        for name, groups in tables_of(sections).items():
            text = write_table(tables, name, groups, published)
            shown.append((f"All numbers of {groups[0][0].row.title}", table_html(text)))
        write_performance(results / "benchmarks", tables / "performance.md")
    write_json(results / "metrics.json", {section.name: means(section.rows) for section in sections})
    with atomic_path(results / "scores.csv") as path:
        write_csv(path, COLUMNS, lines)  # type: ignore[arg-type]
    with atomic_path(results / "report.html") as path:
        path.write_text(
            page("Generalized contrastive learning for universal multimodal retrieval", shown, pictures),
            encoding="utf-8",
        )


def report_or_check(
    config: Config | None, registries: Path, overlays: list[Path] | None, compared: Path | None
) -> None:
    """Write the report, or with `overlays` compare what stands there with what the runs say, or with what is committed.

    Raises:
        UserError: a number that the runs don't give.
    """
    if compared is not None:
        print(compare(compared))
        return
    if overlays is None:
        if config is None:
            raise UserError("give --config, or --verify, or --compare")
        report(config, registries)
        return
    config = read_config(overlays, registries)
    if different := verify(config, registries, report):
        raise UserError("\n".join([f"the tables in {config.results} are not those of the runs:", *different]))
    print(f"every table in {config.results} is what its runs give")


def main() -> None:
    """Run from the command line."""
    options = parser("report", __doc__, "--config '{...}' --registries config")
    options.add_argument("--config", type=from_json(Config), help="config.yaml as JSON")
    options.add_argument(
        "--registries", type=Path, default=Path("config"), help="folder of backbones.yaml and the others"
    )
    options.add_argument(
        "--verify",
        dest="overlays",
        nargs="*",
        type=Path,
        metavar="YAML",
        help="write nothing; score every run again and say which numbers of the tables differ. Files are laid over config.yaml",
    )
    options.add_argument(
        "--compare",
        dest="compared",
        nargs="?",
        type=Path,
        const=Path("results"),
        metavar="RESULTS",
        help="write nothing; say how far scores.csv and metrics.json are from the committed ones (results)",
    )
    run(options, report_or_check)
