"""What the config's names stand for in the code: checked before anything runs.

The config itself (gcl.config) knows its rows; which families, readers, options, denominators and calibrations there
are is known where each is defined, and only there. This module looks there.
"""

from typing import Any

from gcl.common.errors import UserError
from gcl.common.names import lookup, providers
from gcl.common.rows import parse
from gcl.config.project import Experiment, Project, experiment_of
from gcl.losses.denominators import RULES
from gcl.prepare.benchmarks import reader_of
from gcl.prepare.benchmarks.own import Options as HeldOut
from gcl.prepare.pairs import reader_of_pairs
from gcl.prepare.triplets import FORMS
from gcl.rerank.lists import FIRST_STAGE, READING, SECOND_STAGES
from gcl.retrieve.biases import BIASES
from gcl.retrieve.calibration import MODES


def check(project: Project) -> None:
    """Look up every name that stands for code.

    Raises:
        UserError: an unknown family, reader, form of pairs, option, task, denominator or calibration; says which is
            close.
    """
    config, families = project.config, providers("gcl.models", "FAMILY")
    if not (form := project.datasets[config.pairs].pairs):
        raise UserError(
            f"config/datasets.yaml: {config.pairs}: `pairs` is missing, which says how training pairs are read; "
            "`pairs: auto` tells by the files"
        )
    reader_of_pairs(form)
    for name in config.backbones:
        lookup(families, project.backbones[name].family, f"family of {name}", "src/gcl/models/, a module each")
    for name in config.embedded:
        check_options(project, name)
    check_hold_out(project)
    for name in config.submissions:
        if config.depth < (least := reader_of(project.benchmarks[name].reader).upload_depth):
            raise UserError(
                f"config.yaml: depth: {config.depth} candidates are kept for a query, but the server of {name} takes "
                f"{least}; expected {least} or more"
            )
    for experiment in config.experiments:
        for name in experiment.calibrations:
            known = dict.fromkeys((*MODES, *SECOND_STAGES))
            lookup(known, name, f"calibration of experiment {experiment.name}", "retrieve/calibration.py")
        check_rerank(project, experiment)
        check_late(project, experiment)
        for name in experiment.recipes:
            rule = project.recipes[name].loss.denominator
            lookup(RULES, rule, f"denominator of recipe {name}", "src/gcl/losses/denominators.py")
            check_triplets(project, name)
            check_distil(project, name)


def check_triplets(project: Project, recipe: str) -> None:
    """Refuse triplets of a data set that doesn't say how they are written."""
    triplets = project.recipes[recipe].triplets
    if triplets and triplets.data:
        form = project.datasets[triplets.data].triplets
        where = f"config/datasets.yaml: {triplets.data}: triplets"
        lookup(
            FORMS, form or "nothing", f"form of triplets of recipe {recipe}", f"{where}; src/gcl/prepare/triplets.py"
        )


def check_distil(project: Project, recipe: str) -> None:
    """Refuse to be taught by a second stage that the recipe it continues has not."""
    row = project.recipes[recipe]
    if row.distil is None:
        return
    if row.init is None or row.distil.of not in experiment_of(project.config, row.init).calibrations:
        raise UserError(
            f"config: recipe {recipe} is taught by what ranks `init` again, {row.init}; add calibration "
            f"{row.distil.of} to its experiment"
        )


def check_late(project: Project, experiment: Experiment) -> None:
    """Refuse what is of one vector an item for backbones of several: biases, and second stages."""
    of_one = [name for name in experiment.calibrations if name in (*BIASES, *SECOND_STAGES)]
    for backbone in experiment.backbones or project.config.backbones:
        if of_one and (late := project.backbones[backbone].late) > 1:
            raise UserError(
                f"config: experiment {experiment.name}: calibration {of_one[0]} is of products; {backbone} has {late} "
                f"vectors an item: leave one of the two out"
            )


def check_rerank(project: Project, experiment: Experiment) -> None:
    """Refuse a second stage without a first, or without a benchmark that trains it and is none of those measured."""
    if not (stages := [name for name in experiment.calibrations if name in SECOND_STAGES]):
        return
    where, trains = f"config: experiment {experiment.name}: calibration {stages[0]}", project.config.reranker
    if FIRST_STAGE not in experiment.calibrations:
        raise UserError(f"{where}: ranks again what {FIRST_STAGE} finds; add {FIRST_STAGE}")
    if trains is None:
        raise UserError(
            f"{where}: needs a benchmark that trains it; add `reranker: clipart9_validation`, or one of yours"
        )
    if trains in project.config.benchmarks:
        raise UserError(f"{where}: {trains} would train the re-ranker and measure it; leave it out of benchmarks")
    reader = project.config.reader
    if {*READING} & {*stages} and lookup(
        project.backbones, reader, "reader", "config/backbones.yaml"
    ).family != "vista":
        raise UserError(f"{where}: reader {reader} reads no image tokens; give a backbone of family vista")


def check_options(project: Project, name: str) -> None:
    """Check the options of a benchmark against its reader's."""
    row, where = project.benchmarks[name], f"config/benchmarks.yaml: {name}"
    options: Any = parse(reader_of(row.reader).options, row.options, f"{where}: options")
    for task in (*getattr(options, "tasks", []), *getattr(options, "mixed", [])):
        lookup(row.tasks, task, "task", f"{where}: tasks")


def check_hold_out(project: Project) -> None:
    """Refuse benchmarks of the config's own pairs that hold out other shares than each other."""
    shares = {}
    for name in project.config.embedded:
        row = project.benchmarks[name]
        options: Any = parse(reader_of(row.reader).options, row.options, name)
        if isinstance(options, HeldOut):
            shares[name] = options.share, options.least
    if len(set(shares.values())) > 1:
        raise UserError(
            f"config/benchmarks.yaml: {', '.join(shares)}: options share and least are {[*shares.values()]}; expected "
            "the same, since pairs are held out once"
        )
