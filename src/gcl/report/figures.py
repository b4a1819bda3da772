"""Figures as SVG, each with a CSV of the numbers behind it. Same input, same bytes."""

import contextlib
import csv
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gcl.common.arrays import MODALITIES
from gcl.report.figure_data import View, gap
from gcl.score.statistics import Summary, task_label

STYLE = {
    "svg.hashsalt": "gcl",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}
COLOURS = {"image": "#2a6fbb", "text": "#d1662b", "image_text": "#3b8f5a"}


class Shown(NamedTuple):
    """What figures may show: the first backbone, the recipes of the first experiment, one benchmark."""

    views: list[View]  # of each recipe: embeddings and rankings of the first seed
    summaries: dict[str, dict[str, dict[str, Summary]]]  # pool -> recipe -> task
    points: dict[str, dict[float, Summary]]  # loss -> temperature -> mean of tasks in the global pool
    curves: dict[str, dict[int, list[float]]]  # recipe -> seed -> loss by step
    depth: int  # candidates kept per query
    measure: str


@cache
def pyplot() -> Any:
    """Return matplotlib's pyplot, imported on use: it takes longer than all else that `--help` needs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def styled() -> contextlib.AbstractContextManager[None]:
    """Draw in our style, with ids that don't change from run to run."""
    drawn: contextlib.AbstractContextManager[None] = pyplot().rc_context(STYLE)
    return drawn


def save(folder: Path, name: str, header: list[str], rows: list[list[Any]]) -> None:
    """Write the current figure and its numbers."""
    # pyplot's own savefig draws once more for the screen.
    pyplot().gcf().savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
    pyplot().close()
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([f"{x:.6f}" if isinstance(x, float) else x for x in row] for row in rows)


def task_bars(folder: Path, summaries: dict[str, dict[str, Summary]], pool: str, measure: str) -> None:
    """Bars per task, one colour per recipe, with bootstrap intervals."""
    tasks = list(next(iter(summaries.values())))
    _, axes = pyplot().subplots(figsize=(9, 3.4))
    width = 0.8 / len(summaries)
    rows = []
    for i, (recipe, by_task) in enumerate(summaries.items()):
        values = [by_task[t] for t in tasks]
        errors = np.maximum(0, [[s.mean - s.low for s in values], [s.high - s.mean for s in values]])
        at = np.arange(len(tasks)) + (i - (len(summaries) - 1) / 2) * width
        axes.bar(at, [s.mean for s in values], width, yerr=errors, label=recipe, error_kw={"lw": 0.7})
        rows += [[recipe, t, *s] for t, s in zip(tasks, values, strict=True)]
    axes.set_xticks(range(len(tasks)), [task_label(t) for t in tasks])
    axes.set_ylabel(f"{measure}, {pool} pool (%)")
    axes.legend(ncols=len(summaries), fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.14), frameon=False)
    save(folder, f"tasks_{pool}", ["recipe", "task", *Summary._fields], rows)


def training_curves(folder: Path, curves: dict[str, dict[int, list[float]]]) -> None:
    """Loss by step, a panel per recipe since losses with other denominators don't compare, a line per seed."""
    _, panels = pyplot().subplots(1, len(curves), figsize=(2.3 * len(curves), 2.4), squeeze=False)
    rows = []
    for axes, (recipe, by_seed) in zip(panels[0], curves.items(), strict=True):
        for seed, losses in by_seed.items():
            axes.plot(losses, lw=0.8)
            rows += [[recipe, seed, step, loss] for step, loss in enumerate(losses)]
        axes.set_title(recipe, fontsize=8)
        axes.set_xlabel("step")
    panels[0][0].set_ylabel("loss")
    save(folder, "curves", ["recipe", "seed", "step", "loss"], rows)


def temperatures(folder: Path, points: dict[str, dict[float, Summary]], measure: str) -> None:
    """Mean over tasks in the global pool against the temperature, a line per loss."""
    _, axes = pyplot().subplots(figsize=(5, 3.4))
    rows = []
    for loss, by_temperature in points.items():
        xs = sorted(by_temperature)
        values = [by_temperature[x] for x in xs]
        errors = np.maximum(0, [[s.mean - s.low for s in values], [s.high - s.mean for s in values]])
        axes.errorbar(xs, [s.mean for s in values], errors, marker="o", ms=3, lw=1.2, elinewidth=0.6, label=loss)
        rows += [[loss, x, *by_temperature[x]] for x in xs]
    axes.set_xscale("log")
    ticks = sorted({x for by in points.values() for x in by})
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("temperature")
    axes.set_ylabel(f"{measure}, global pool, mean of tasks (%)")
    axes.legend(fontsize=7, frameon=False)
    save(folder, "temperature", ["loss", "temperature", *Summary._fields], rows)


def loss_name(recipe: str) -> str | None:
    """Return the loss of a recipe named <loss>_tNN, or None."""
    match = re.fullmatch(r"(.+)_t\d\d", recipe)
    return match.group(1) if match else None


def projections(folder: Path, views: list[View]) -> None:
    """The candidates of all modalities on their first two principal components, a panel per recipe."""
    _, panels = pyplot().subplots(1, len(views), figsize=(3 * len(views), 3), squeeze=False)
    rows = []
    for axes, view in zip(panels[0], views, strict=True):
        stacked = np.concatenate([*view.units.values()]).astype(np.float64)
        middle = stacked.mean(0)
        basis = np.linalg.svd(stacked - middle, full_matrices=False)[2][:2]
        basis *= np.sign(basis.sum(1, keepdims=True))  # a component's sign is arbitrary
        for modality, vectors in view.units.items():
            xy = (vectors - middle) @ basis.T  # (n, 2)
            axes.scatter(*xy.T, s=3, alpha=0.5, color=COLOURS[modality], label=modality, linewidths=0)
            rows += [[view.recipe, modality, float(x), float(y)] for x, y in xy]
        axes.set_title(f"{view.recipe}: gap {gap(view.units):.2f}", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    panels[0][0].legend(fontsize=7, markerscale=3, frameon=False)
    save(folder, "projection", ["recipe", "modality", "x", "y"], rows)


def rank_curves(folder: Path, views: list[View], depth: int) -> None:
    """Share of queries whose first hit is at rank k or better, global pool, mean of tasks."""
    _, axes = pyplot().subplots(figsize=(5, 3.4))
    ranks = np.arange(1, depth + 1)
    rows = []
    for view in views:
        by_task = [((hits[:, None] > 0) & (hits[:, None] <= ranks)).mean(0) for hits in view.first_hits.values()]
        curve = np.mean(by_task, axis=0) * 100
        axes.plot(ranks, curve, lw=1.3, label=view.recipe)
        rows += [[view.recipe, int(k), float(v)] for k, v in zip(ranks, curve, strict=True)]
    axes.set_xscale("log")
    axes.set_xlabel("rank of the first hit")
    axes.set_ylabel("queries (%), global pool")
    axes.legend(fontsize=7, frameon=False)
    save(folder, "ranks", ["recipe", "rank", "percent"], rows)


def cosines(folder: Path, views: list[View]) -> None:
    """Histograms of query-positive cosines per task, over those of all other candidates."""
    tasks = list(views[0].positives)
    _, panels = pyplot().subplots(
        len(views), len(tasks), figsize=(1.25 * len(tasks), 1.2 * len(views)), sharex=True, squeeze=False
    )
    edges = np.linspace(-0.5, 1, 61)
    rows = []
    for line, view in zip(panels, views, strict=True):
        for axes, task in zip(line, tasks, strict=True):
            for kind, values in (("other", view.others[task]), ("positive", view.positives[task])):
                density = np.histogram(values, edges, density=True)[0]
                axes.stairs(
                    density, edges, fill=kind == "other", lw=0.9, color="#bbbbbb" if kind == "other" else "#b3282d"
                )
                rows += [[view.recipe, task, kind, float(x), float(d)] for x, d in zip(edges, density, strict=False)]
            axes.set_yticks([])
            if view is views[0]:
                axes.set_title(task_label(task), fontsize=8)
        line[0].set_ylabel(view.recipe, fontsize=7)
    save(folder, "cosines", ["recipe", "task", "kind", "cosine", "density"], rows)


def modality_shares(folder: Path, views: list[View]) -> None:
    """Share of each modality in the top 10 of the global pool, by query modality; 33 % each would be even."""
    queries = [query for query in MODALITIES if any(views[0].shares[query].values())]
    _, panels = pyplot().subplots(1, len(queries), figsize=(3 * len(queries), 2.4), sharey=True, squeeze=False)
    panels, rows = panels[0], []
    for axes, query in zip(panels, queries, strict=True):
        bottom = np.zeros(len(views))
        for candidate in MODALITIES:
            values = np.array([view.shares[query][candidate] * 100 for view in views])
            axes.barh(range(len(views)), values, left=bottom, color=COLOURS[candidate], label=candidate)
            bottom += values
            rows += [[view.recipe, query, candidate, float(v)] for view, v in zip(views, values, strict=True)]
        axes.set_title(f"{query} queries", fontsize=8)
        axes.set_xlabel("top 10 (%)")
    panels[0].set_yticks(range(len(views)), [view.recipe for view in views])
    panels[0].invert_yaxis()
    panels[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save(folder, "modalities", ["recipe", "query_modality", "candidate_modality", "percent"], rows)


class Figure(NamedTuple):
    """A figure of the page; the order of FIGURES is the page's."""

    caption: str
    draw: Callable[[Path, Shown], None]
    is_wanted: Callable[[Shown], bool] = lambda shown: True


FIGURES: dict[str, Figure] = {
    "tasks_global": Figure(
        "Each task in the global pool, where candidates of all modalities compete. Query→candidate; i image, t text, it both.",
        lambda folder, shown: task_bars(folder, shown.summaries["global"], "global", shown.measure),
    ),
    "tasks_local": Figure(
        "Each task in its local pool, where all candidates have the relevant modality.",
        lambda folder, shown: task_bars(folder, shown.summaries["local"], "local", shown.measure),
    ),
    "temperature": Figure(
        "Mean of the tasks in the global pool against the temperature of training, 30 epochs each.",
        lambda folder, shown: temperatures(folder, shown.points, shown.measure),
        lambda shown: any(len(by_temperature) > 1 for by_temperature in shown.points.values()),
    ),
    "projection": Figure(
        "Candidates of all modalities on their first two principal components, and the distance of the image and text centroids.",
        lambda folder, shown: projections(folder, shown.views),
    ),
    "modalities": Figure(
        "Which modalities fill the top 10 of the global pool.",
        lambda folder, shown: modality_shares(folder, shown.views),
    ),
    "ranks": Figure(
        "Queries whose first hit is at rank k or better.",
        lambda folder, shown: rank_curves(folder, shown.views, shown.depth),
    ),
    "cosines": Figure(
        "Cosines of queries with their positives (red line) and with all other candidates of that modality (grey).",
        lambda folder, shown: cosines(folder, shown.views),
    ),
    "curves": Figure(
        "Training loss by step, one line per seed. Losses with different denominators are not comparable.",
        lambda folder, shown: training_curves(folder, shown.curves),
    ),
}


def draw_all(folder: Path, shown: Shown) -> dict[str, str]:
    """Draw every figure that has something to show; return the captions by name."""
    wanted = {name: figure for name, figure in FIGURES.items() if figure.is_wanted(shown)}
    with styled():
        for figure in wanted.values():
            figure.draw(folder, shown)
    return {name: figure.caption for name, figure in wanted.items()}
