"""What the YAML files in config/ may say: one dataclass per kind of row, checked on load.

`config/config.yaml` chooses; the registries beside it define:
backbones.yaml, recipes.yaml, benchmarks.yaml, datasets.yaml, published.yaml.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.names import lookup
from gcl.common.rows import STRICT, Count, Share, load_yaml, mapping, parse, to_json
from gcl.config.backbones import Backbone, backbone_files
from gcl.config.benchmarks import Benchmark, cutoff_of
from gcl.config.datasets import Dataset, selected
from gcl.config.recipes import Recipe, ancestry

T = TypeVar("T")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # of rows: they become folders, and words of commands


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Experiment:
    """A group of recipes that are run and scored alike."""

    name: str
    recipes: list[str]
    backbones: list[str] = field(default_factory=list)  # none: all of the config's
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**15)]], Field(min_length=1)]  # runs keep them in 16 bits
    calibrations: Annotated[list[str], Field(min_length=1)]
    baseline: str | None = None  # each recipe's difference to this one is reported; "previous": to the one before it


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """The choices of config.yaml."""

    pairs: str  # the data set that trains
    backbones: Annotated[list[str], Field(min_length=1)]
    benchmarks: Annotated[list[str], Field(min_length=1)]
    submissions: list[str] = field(default_factory=list)  # benchmarks with hidden labels: files for their servers
    reranker: str | None = (
        None  # the benchmark that trains re-rankers, for calibrations `rerank`, `joint` and `adapter`
    )
    reader: str = "vista_lite_25"  # the backbone whose image tokens and text encoder `joint` and `adapter` read with
    experiments: Annotated[list[Experiment], Field(min_length=1)]
    device: Literal["auto", "cuda", "cpu"] = "auto"
    processes: Count = 1  # of full training, one per GPU, started by torchrun
    sentences: str = "clip_lite"  # the backbone whose frozen text tower measures captions, for loss.separation
    depth: Annotated[int, Field(ge=10, lt=2**15)] = 100  # candidates kept per query
    resamples: Count = 1000  # of the bootstrap
    max_pairs: Count | None = None  # train on the first so many pairs
    max_queries: Count | None = None  # score the first so many queries of each task
    reject_limit: Share = 0.01  # largest share of unreadable training pairs that is tolerated
    shards: dict[str, Count] = field(default_factory=dict)  # benchmark -> jobs that embed it (1)
    results: str = "results"  # folder of everything that is made

    @property
    def embedded(self) -> list[str]:
        """All benchmarks that are embedded, in order."""
        more = [self.reranker] if self.reranker else []
        return list(dict.fromkeys([*self.benchmarks, *self.submissions, *more]))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Project:
    """The choices with all registries, cross-checked."""

    config: Config
    backbones: dict[str, Backbone]
    recipes: dict[str, Recipe]
    benchmarks: dict[str, Benchmark]
    datasets: dict[str, Dataset]


def as_dict(config: Config) -> dict[str, Any]:
    """Return a config as the plain dict that `load` checks."""
    value: dict[str, Any] = json.loads(to_json(config))
    return value


def load(config: dict[str, Any], folder: Path = Path("config")) -> Project:
    """Check the choices and the registries, and that every name refers to a row.

    Raises:
        UserError: an unknown key or name, a wrong type, or a recipe that continues itself.
    """

    def rows(name: str, kind: type[T]) -> dict[str, T]:
        path = folder / f"{name}.yaml"
        value = mapping(load_yaml(path), str(path))
        if odd := [key for key in value if not NAME.fullmatch(key)]:
            raise UserError(f"{path}: name {odd[0]!r}: expected letters, digits, _, - and . only")
        return {key: parse(kind, row, f"{path}: {key}") for key, row in value.items()}

    choices = parse(Config, config, f"{folder}/config.yaml")
    benchmarks = {
        name: replace(row, dataset=row.dataset or choices.pairs) for name, row in rows("benchmarks", Benchmark).items()
    }
    datasets = rows("datasets", Dataset)
    needed = [choices.pairs, *(benchmarks[name].dataset for name in choices.embedded if name in benchmarks)]
    project = Project(
        config=choices,
        backbones=rows("backbones", Backbone),
        recipes=rows("recipes", Recipe),
        benchmarks=benchmarks,
        datasets=datasets | unlisted(needed, datasets),
    )
    check_names(project)
    return project


def unlisted(names: Iterable[str], listed: Mapping[str, Dataset]) -> dict[str, Dataset]:
    """Return rows for folders below data/ that datasets.yaml does not list: one's own, read as they look."""
    return {
        name: Dataset(source=f"data/{name}", licence="its owner's", files=[], pairs="auto")
        for name in names
        if name not in listed and NAME.fullmatch(name) and (Path("data") / name).is_dir()
    }


def check_names(project: Project) -> None:
    """Look every name up in its registry."""
    config = project.config
    lookup(project.backbones, config.sentences, "sentence encoder", "config/backbones.yaml")
    lookup(project.datasets, config.pairs, "data set", "config/datasets.yaml")
    for name in config.backbones:
        row = lookup(project.backbones, name, "backbone", "config/backbones.yaml")
        for file in backbone_files(row):
            lookup(project.datasets, file.split("/")[0], "data set", "config/datasets.yaml")
    for name in config.embedded:
        check_benchmark(project, name)
    for name in config.shards:
        lookup(dict.fromkeys(config.embedded), name, "benchmark to shard", "config.yaml: benchmarks")
    chosen = [name for experiment in config.experiments for name in experiment.recipes]
    for name in chosen:
        if absent := [parent for parent in ancestry(project.recipes, name) if parent not in chosen]:
            raise UserError(f"config: recipe '{name}' continues '{absent[0]}', which no experiment lists; add it")
    for experiment in config.experiments:
        for name in experiment.backbones:
            lookup(dict.fromkeys(config.backbones), name, f"backbone of experiment {experiment.name}", "config.yaml")
        if experiment.baseline not in (None, "previous"):
            lookup(
                dict.fromkeys(chosen),
                experiment.baseline,
                f"baseline of experiment {experiment.name}: recipe",
                "config.yaml",
            )
    for name in chosen:
        if (triplets := project.recipes[name].triplets) and triplets.data:
            lookup(project.datasets, triplets.data, f"triplets of recipe {name}: data set", "config/datasets.yaml")
    check_experiments(config)
    if twice := {name for name in chosen if chosen.count(name) > 1}:
        raise UserError(f"config: recipes in more than one experiment: {', '.join(sorted(twice))}")


def check_experiments(config: Config) -> None:
    """Refuse what the report can't show: it compares uncalibrated scores, pairs seeds, draws the first backbone.

    Raises:
        UserError: an experiment without calibration none, without a seed of its baseline's, or a first experiment that
            leaves out the first backbone.
    """
    for experiment in config.experiments:
        where = f"config: experiment {experiment.name}"
        if len(set(experiment.seeds)) < len(experiment.seeds):
            raise UserError(f"{where}: seeds {experiment.seeds}: the same one twice")
        if "none" not in experiment.calibrations:
            raise UserError(
                f"{where}: calibrations {experiment.calibrations}: add none, with which others are compared"
            )
        if experiment.baseline not in (None, "previous"):
            other = experiment_of(config, experiment.baseline)
            if not set(other.seeds) & set(experiment.seeds):
                raise UserError(
                    f"{where}: seeds {experiment.seeds} and those of baseline {experiment.baseline}, {other.seeds}, "
                    f"have none in common, so that no difference can be paired"
                )
    first = config.experiments[0]
    if first.backbones and config.backbones[0] not in first.backbones:
        raise UserError(
            f"config: the first experiment, {first.name}, leaves out the first backbone, {config.backbones[0]}, of "
            f"which the report draws it; list another experiment or backbone first"
        )


def check_benchmark(project: Project, name: str) -> None:
    """Look up what a benchmark refers to."""
    row = lookup(project.benchmarks, name, "benchmark", "config/benchmarks.yaml")
    for dataset in (row.dataset, *([row.images.dataset] if row.images else [])):
        lookup(project.datasets, dataset, "data set", "config/datasets.yaml")
    deepest = max(row.measures, key=cutoff_of)
    if project.config.depth <= cutoff_of(deepest):
        raise UserError(
            f"config.yaml: depth: {project.config.depth} candidates are kept for a query, but {name} is measured by "
            f"{deepest}; expected more than {cutoff_of(deepest)}, so that ties at the cut-off can be counted"
        )
    headlines = [row.headline, *(facts.headline for facts in row.tasks.values())]
    for headline in filter(None, headlines):
        lookup(dict.fromkeys(row.measures), headline, f"headline of {name}: measure", "its own list of measures")


def wanted(project: Project, dataset: str) -> Dataset:
    """Return the part of a data set that the chosen benchmarks need."""
    tasks: set[str] | None = set()
    for row in (project.benchmarks[name] for name in project.config.embedded):
        own = [str(task) for task in row.options.get("tasks", [])]
        requests = [own] if row.dataset == dataset else []
        requests += [row.images.tasks or own] if row.images and row.images.dataset == dataset else []
        for names in requests:
            tasks = None if tasks is None or not names else tasks | set(names)
    return selected(project.datasets[dataset], tasks or None)


def experiment_of(config: Config, recipe: str) -> Experiment:
    """Return the experiment that lists a recipe."""
    return next(e for e in config.experiments if recipe in e.recipes)


def runs_of(config: Config) -> list[tuple[str, str]]:
    """List (backbone, recipe) of everything that is run, in the order of the config."""
    return [
        (backbone, recipe)
        for backbone in config.backbones
        for experiment in config.experiments
        if not experiment.backbones or backbone in experiment.backbones
        for recipe in experiment.recipes
    ]


def schema() -> dict[str, Any]:
    """Return the JSON Schema of config.yaml, for editors and for Snakemake's own check."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | TypeAdapter(Config).json_schema()
