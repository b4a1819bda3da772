import json
from dataclasses import replace

import pytest

from gcl.common.errors import UserError
from gcl.common.names import providers
from gcl.common.rows import from_json, load_yaml, parse, to_json
from gcl.config.project import load, runs_of, schema, wanted
from gcl.config.recipes import Recipe, ancestry
from gcl.losses.denominators import RULES
from gcl.prepare import pairs
from gcl.registries import check


def changed(root, **keys):
    return load({**load_yaml(root / "config/config.yaml"), **keys}, root / "config")


def experiment(*recipes, **more):
    return [{"name": "x", "recipes": list(recipes), "seeds": [0], "calibrations": ["none"], **more}]


def test_schema_file_is_what_the_dataclasses_say(root):
    assert json.loads((root / "workflow/schemas/config.schema.json").read_text()) == schema()


@pytest.mark.parametrize("name", ["config.yaml", "paper.yaml", "smoke.yaml"])
def test_every_configuration_loads(root, name):
    base = load_yaml(root / "config/config.yaml")
    assert load({**base, **load_yaml(root / "config" / name)}, root / "config").config.backbones


def test_every_row_names_code_that_exists(project):
    assert {row.family for row in project.backbones.values()} <= set(providers("gcl.models", "FAMILY"))
    assert {row.reader for row in project.benchmarks.values()} <= set(providers("gcl.prepare.benchmarks", "READER"))
    assert {row.pairs for row in project.datasets.values() if row.pairs} <= set(pairs.forms())
    assert {row.loss.denominator for row in project.recipes.values()} <= set(RULES)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"backbones": ["clip_lit"]}, r"unknown backbone 'clip_lit' \(did you mean 'clip_lite'\?\).*backbones.yaml"),
        ({"benchmarks": ["clipart8"]}, r"unknown benchmark 'clipart8' \(did you mean 'clipart9'\?\).*benchmarks.yaml"),
        ({"pairs": "openclipar"}, r"unknown data set 'openclipar' \(did you mean 'openclipart'\?\)"),
        ({"deppth": 3}, r"unknown key 'deppth' \(did you mean 'depth'\?\)"),
        ({"depth": "many"}, r"depth: .*integer.*found 'many'"),
        ({"device": "tpu"}, r"device: .*found 'tpu'"),
        ({"experiments": []}, r"experiments: .*at least 1"),
    ],
)
def test_a_bad_choice_is_named_with_what_was_expected(root, keys, message):
    with pytest.raises(ValueError, match=message):
        changed(root, **keys)


def test_an_unknown_recipe_is_answered_with_a_suggestion(root):
    with pytest.raises(ValueError, match=r"unknown recipe 'gcl_litteral' \(did you mean 'gcl_literal'\?\)"):
        changed(root, experiments=experiment("gcl_litteral"))


def test_a_recipe_needs_the_one_it_continues(root):
    with pytest.raises(ValueError, match="'cl' continues 'pretrained', which no experiment lists"):
        changed(root, experiments=experiment("cl"))


def test_a_recipe_is_in_one_experiment_only(root):
    with pytest.raises(ValueError, match="more than one experiment: pretrained"):
        changed(root, experiments=experiment("pretrained") + experiment("pretrained"))


def test_a_baseline_must_be_run(root):
    with pytest.raises(ValueError, match="baseline of experiment x: recipe 'pretraned'.*did you mean 'pretrained'"):
        changed(root, experiments=experiment("pretrained", baseline="pretraned"))


def test_what_the_report_could_not_show_is_refused(root):
    with pytest.raises(UserError, match=r"experiment x: calibrations \['center'\]: add none"):
        changed(root, experiments=experiment("pretrained", calibrations=["center"]))
    with pytest.raises(UserError, match="first experiment, x, leaves out the first backbone, clip_lite"):
        changed(root, experiments=experiment("pretrained", backbones=["vista_lite"]))
    later = [{**experiment("cl")[0], "name": "y", "seeds": [3], "baseline": "pretrained"}]
    with pytest.raises(
        UserError, match=r"experiment y: seeds \[3\] and those of baseline pretrained, \[0\], have none"
    ):
        changed(root, experiments=experiment("pretrained") + later)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"depth": 40000}, "depth: .*less than 32768"),
        ({"depth": 50}, r"depth: 50 candidates are kept .* clipart9 is measured by Success@50; expected more than 50"),
        ({"experiments": experiment("pretrained", seeds=[32768])}, "seeds.0: .*less than 32768"),
        ({"experiments": experiment("pretrained", seeds=[-1])}, "seeds.0: .*greater than or equal to 0"),
        ({"experiments": experiment("pretrained", seeds=[3, 3])}, r"experiment x: seeds \[3, 3\]: the same one twice"),
    ],
)
def test_limits_are_checked_before_anything_runs(root, keys, message):
    with pytest.raises(UserError, match=message):
        changed(root, **keys)


def test_a_servers_list_must_fit_the_depth(root):
    overlay = {"submissions": ["circo_test_fixture"], "benchmarks": ["cirr_fixture"]}
    project = changed(root, depth=51, **overlay)
    check(project)
    shallow = replace(project, config=replace(project.config, depth=40))
    with pytest.raises(UserError, match="depth: 40 candidates are kept .* the server of circo_test_fixture takes 50"):
        check(shallow)


def test_names_that_stand_for_code_are_looked_up_before_anything_runs(root):
    check(changed(root, benchmarks=["mbeir"], max_queries=3))
    with pytest.raises(UserError, match=r"calibration of experiment x 'centre' \(did you mean 'center'\?\)"):
        check(changed(root, experiments=experiment("pretrained", calibrations=["none", "centre"])))


def test_an_unknown_family_reader_option_or_denominator_is_answered_with_a_suggestion(root):
    project = changed(root, experiments=experiment("pretrained"))
    backbone = project.backbones["clip_lite"]
    odd = replace(project, backbones=project.backbones | {"clip_lite": replace(backbone, family="clipp")})
    with pytest.raises(UserError, match=r"unknown family of clip_lite 'clipp' \(did you mean 'clip'\?\)"):
        check(odd)
    bench = project.benchmarks["clipart9"]
    for row, message in (
        (replace(bench, reader="clipart8"), r"unknown benchmark reader 'clipart8' \(did you mean 'clipart9'\?\)"),
        (replace(bench, options={"taskss": []}), "clipart9: options: unknown key 'taskss'"),
    ):
        with pytest.raises(UserError, match=message):
            check(replace(project, benchmarks=project.benchmarks | {"clipart9": row}))
    recipe = project.recipes["pretrained"]
    loss = replace(recipe.loss, denominator="fulll")
    with pytest.raises(UserError, match=r"denominator of recipe pretrained 'fulll' \(did you mean 'full'\?\)"):
        check(replace(project, recipes=project.recipes | {"pretrained": replace(recipe, loss=loss)}))


def chosen(project, **options_by_benchmark):
    """A project that embeds the given benchmarks, each with its own options."""
    rows = {name: replace(project.benchmarks[name], options=o) for name, o in options_by_benchmark.items()}
    config = replace(project.config, benchmarks=[*rows], reranker=None)
    return replace(project, config=config, benchmarks=project.benchmarks | rows)


def needed_by(row):
    """The tasks that what is fetched of a data set is for; what all need is for none."""
    members = [names for archive in row.archives for names in archive.members.values()]
    return {task for names in [*members, *(file.tasks for file in row.files)] for task in names}


def test_only_what_the_chosen_tasks_need_is_fetched(project):
    one, other = {"tasks": ["nights_task4"]}, {"tasks": ["oven_task6"]}
    every = needed_by(project.datasets["mbeir"])
    assert len(every) > 10
    alone = wanted(chosen(project, mbeir=one), "mbeir")
    assert needed_by(alone) == {"nights_task4"}
    shared = [file.path for file in project.datasets["mbeir"].files if not file.tasks]
    assert shared
    assert {*shared} < {file.path for file in alone.files}
    both = wanted(chosen(project, mbeir=one, mbeir_first=other), "mbeir")
    assert needed_by(both) == {"nights_task4", "oven_task6"}
    for order in ({"mbeir": one, "mbeir_first": {}}, {"mbeir_first": {}, "mbeir": one}, {"mbeir": {}}):
        assert needed_by(wanted(chosen(project, **order), "mbeir")) == every
    images = project.benchmarks["mbeir"].images.dataset
    assert needed_by(wanted(chosen(project, mbeir=one), images)) == {"nights_task4"}
    with_cirr = chosen(project, mbeir=one, cirr={})  # whose images lie in M-BEIR's archive
    assert needed_by(wanted(with_cirr, images)) == {"nights_task4", "cirr_task7"}
    assert wanted(chosen(project, mbeir=one), "openclipart") == project.datasets["openclipart"]


def test_an_experiment_runs_on_its_backbones_or_on_all(root):
    first, second = experiment("pretrained"), experiment("cl", backbones=["vista_lite"], baseline="pretrained")
    config = changed(root, experiments=[*first, second[0] | {"name": "y"}]).config
    on_all = [("clip_lite", "pretrained"), ("vista_lite", "pretrained")]
    assert sorted(runs_of(config)) == sorted([*on_all, ("vista_lite", "cl")])


def test_a_recipe_can_not_continue_itself(project):
    rows = dict(project.recipes)
    rows["a"] = parse(Recipe, {**json.loads(to_json(rows["cl"])), "init": "b"}, "a")
    rows["b"] = parse(Recipe, {**json.loads(to_json(rows["cl"])), "init": "a"}, "b")
    with pytest.raises(ValueError, match="a -> b -> a continues itself"):
        ancestry(rows, "a")


def test_a_row_survives_the_command_line(project):
    for row in project.recipes.values():
        assert from_json(Recipe)(to_json(row)) == row


def test_yaml_can_not_make_objects(tmp_path):
    (tmp_path / "x.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match=r"can't read .*x\.yaml"):
        load_yaml(tmp_path / "x.yaml")


def test_a_direction_must_name_modalities(project):
    row = json.loads(to_json(project.recipes["gcl"]))
    row["loss"]["directions"] = {"image>video": 1}
    with pytest.raises(ValueError, match="image>video"):
        parse(Recipe, row, "x")


def test_a_second_stage_needs_a_first_and_a_benchmark_of_its_own(root):
    some = experiment("pretrained", calibrations=["none", "center_zscore", "rerank"])
    check(changed(root, experiments=some, reranker="clipart9_validation"))
    with pytest.raises(UserError, match="needs a benchmark that trains it; add `reranker: clipart9_validation`"):
        check(changed(root, experiments=some))
    with pytest.raises(UserError, match="clipart9 would train the re-ranker and measure it"):
        check(changed(root, experiments=some, reranker="clipart9"))
    with pytest.raises(UserError, match="ranks again what center_zscore finds; add center_zscore"):
        check(changed(root, experiments=experiment("pretrained", calibrations=["none", "rerank"])))
    with pytest.raises(UserError, match="benchmark 'clipart9_validatio'"):
        changed(root, experiments=some, reranker="clipart9_validatio")


def test_biases_are_refused_for_several_vectors_an_item_before_anything_runs(root):
    some = experiment("pretrained", calibrations=["none", "sinkhorn"])
    check(changed(root, experiments=some))
    with pytest.raises(
        UserError, match="calibration sinkhorn is of products; recurrent_lite_late has 4 vectors an item"
    ):
        check(changed(root, experiments=some, backbones=["recurrent_lite_late"]))
