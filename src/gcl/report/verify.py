"""Compute every table anew from the runs, and say which numbers are others than those that stand there."""

import difflib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gcl.common.progress import progress
from gcl.common.rows import load_yaml, parse
from gcl.config.project import Config, Project, as_dict, load, runs_of
from gcl.data.own import fingerprint
from gcl.score.score import score

KEPT = ("benchmarks", "runs", "embeddings", "checkpoints", "prepared", "shared")  # what the tables are made of
SHOWN = 20  # lines of a file that differ


def overlaid(base: Any, over: Any) -> Any:
    """Return a config with another laid over it, as Snakemake's --configfile does."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: overlaid(base.get(key), value) for key, value in over.items()}


def read_config(overlays: list[Path], registries: Path) -> Config:
    """Read config.yaml beside the registries with further files laid over it."""
    value = load_yaml(registries / "config.yaml")
    for path in overlays:
        value = overlaid(value, load_yaml(path))
    return parse(Config, value, ", ".join(map(str, [registries / "config.yaml", *overlays])))


def verify(config: Config, registries: Path, report: Callable[[Config, Path], None]) -> list[str]:
    """Score every run and write every table again; return the lines that differ, and data that were edited since.

    Raises:
        UserError: a run or what it was made of is missing.
    """
    project, results = load(as_dict(config), registries), Path(config.results)
    stale = [*edited(project, results)]
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder)
        for kind in KEPT:
            if (results / kind).exists():
                (again / kind).symlink_to((results / kind).resolve())
        runs = [(*run, name) for run in runs_of(config) for name in config.benchmarks]
        for backbone, recipe, name in progress(runs, "score again", "run"):
            where = Path(backbone) / recipe
            run_file = results / "runs" / where / f"{name}.parquet"
            measures = list(project.benchmarks[name].measures)
            score(
                run_file, results / "prepared" / name, backbone, recipe, name, measures, config.resamples,
                again / "scores" / where / name,
            )  # fmt: skip
        report(replace(config, results=str(again)), registries)
        return [*stale, *differences(results, again)]


def edited(project: Project, results: Path) -> Iterator[str]:
    """Yield a line for each data set of the user's own that holds other files than those that were prepared."""
    rows = [project.benchmarks[name] for name in project.config.embedded]
    names = dict.fromkeys([project.config.pairs, *(row.dataset for row in rows)])
    for name in names:
        files = [file.path for file in project.datasets[name].files]
        listing = Path("data") / name / "fetched.json"
        before = load_yaml(listing).get("own") if listing.exists() else None  # JSON is YAML
        if before and before != fingerprint(listing.parent, results / "own" / f"{name}.json", files):
            yield f"data/{name} holds other files than those that the runs were made of; run `snakemake` again"


def differences(results: Path, again: Path) -> Iterator[str]:
    """Yield the lines of the tables and of scores.csv that differ, - as it stands there, + as it should be."""
    names = {path.relative_to(root) for root in (results, again) for path in (root / "tables").glob("*")}
    for name in sorted({*names, Path("scores.csv")}):
        before, after = (
            (root / name).read_text(encoding="utf-8").splitlines() if (root / name).exists() else []
            for root in (results, again)
        )
        if before != after:
            lines = [line for line in difflib.ndiff(before, after) if line[0] in "+-"]
            yield f"{results / name}: {len(lines)} lines differ"
            yield from lines[:SHOWN]
