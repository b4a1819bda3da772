"""dvc.yaml names the rows of the registries that the demo uses, and the stages are Snakemake's targets."""

import yaml

from gcl.config.backbones import backbone_files


def recorded(root):
    """By stage and registry, the names of the rows that dvc.lock will hold; None: the whole file."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    return {stage: {k: v for entry in row["params"] for k, v in entry.items()} for stage, row in stages.items()}


def test_every_stage_records_the_rows_that_it_uses(root, project):
    found, config = recorded(root), project.config
    recipes = [name for experiment in config.experiments for name in experiment.recipes]
    assert sorted(found["backbone"]["config/recipes.yaml"]) == sorted(recipes)
    assert found["prepare"]["config/benchmarks.yaml"] == config.benchmarks
    weights = {file.split("/")[0] for name in config.backbones for file in backbone_files(project.backbones[name])}
    used = {config.pairs, *weights, *(project.benchmarks[name].dataset for name in config.benchmarks)}
    assert set(found["prepare"]["config/datasets.yaml"]) == used


def test_the_lock_is_short_enough_to_be_read(root):
    assert len((root / "dvc.lock").read_text().splitlines()) < 2500
