"""Smaller variants of a model: what they are, what is chosen, and what a kill or a crash leaves."""

import csv
import json
import subprocess

import onnx
import pytest

from gcl.common.errors import UserError
from gcl.common.files import HELD, KEY
from gcl.common.rows import load_yaml
from gcl.config.project import load
from gcl.export.export import export
from gcl.prepare.prepare import prepare_benchmark, prepare_pairs
from gcl.score import variants as module
from gcl.score.variants import variants
from gcl.train.train import train
from support.models import tiny_vista
from support.training import recipe
from support.workflow import ROOT


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A tiny model, and the demo's benchmark cut to its first queries."""
    folder = tmp_path_factory.mktemp("variants")
    project, data = load(load_yaml(ROOT / "config/config.yaml"), ROOT / "config"), ROOT / "data/openclipart"
    prepare_benchmark(data, data, project.benchmarks["clipart9"], 3, 2, folder / "bench")
    prepare_pairs(data, "pictures", 0.0, 20, folder / "pairs")
    backbone, nothing = tiny_vista(folder, context=24), (None,) * 6
    train("t", backbone, recipe(epochs=0), [0], folder / "pairs", folder, *nothing, "cpu", 1, folder / "checkpoints")
    export("all", "t", backbone, folder, folder / "checkpoints", None, folder / "onnx")
    return folder / "onnx/seed0", folder / "bench"


@pytest.fixture
def embedded(monkeypatch):
    """Names of the variants that embed, in order; those in `dying` crash."""
    names, dying, whole = [], set(), subprocess.run

    def counted(command, **given):
        if command[1:3] != ["-m", "gcl.infer"]:
            return whole(command, **given)
        names.append(command[4].rsplit("/", 1)[1])
        if names[-1] in dying:
            return subprocess.CompletedProcess(command, -11, "", "")
        return whole(command, **given)

    monkeypatch.setattr(subprocess, "run", counted)
    return names, dying


def rows_of(out):
    with (out / "variants.csv").open(newline="") as file:
        return {(row["variant"], row["pool"]): row for row in csv.DictReader(file)}


def test_they_are_smaller_and_measured_against_fp32(ready, tmp_path, caplog):
    kinds, out = ["fp16", "int8", "int8_blocks"], tmp_path / "out"
    found = variants(ready[0], [ready[1]], kinds, "Success@10", 100.0, 1, "cpu", out)
    assert (out / "chosen").resolve() == (out / found["chosen"]).resolve()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    wanted = {"chosen", "fp32", *kinds, "variants.csv", "variants.md"}
    assert {path.name for path in out.iterdir()} == wanted
    assert not caplog.records  # none of the quantisers' advice
    rows = rows_of(out)
    assert set(rows) == {(v, p) for v in ("fp32", *kinds) for p in ("local", "global")}
    for variant, factor, cosine in (("fp16", 0.7, 1e-4), ("int8", 0.7, 0.1), ("int8_blocks", 0.9, 0.01)):
        row, exact = rows[variant, "global"], rows["fp32", "global"]
        assert float(row["megabytes"]) < factor * float(exact["megabytes"])
        assert 0 < float(row["largest_1_minus_cosine"]) < cosine
        difference = float(row["value"]) - float(exact["value"])
        assert float(row["difference_to_fp32"]) == pytest.approx(difference, abs=0.011)
        about = json.loads((out / f"{variant}/export.json").read_text())
        assert about["dtype"] == {"fp16": "float16"}.get(variant, "int8")
    model = onnx.load(out / "fp16/text.onnx")
    norms = {n.output[0] for n in model.graph.node if n.op_type == "LayerNormalization"}
    assert norms
    # Each norm's output is single precision: what reads it is another norm's cast.
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    assert all(kinds.get(name, onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT for name in norms)


def test_a_killed_comparison_goes_on(ready, tmp_path, monkeypatch, embedded):
    def run(repeats=2):
        variants(ready[0], [ready[1]], ["fp16"], "Success@10", 100.0, repeats, "cpu", tmp_path / "out")

    with monkeypatch.context() as patch:
        patch.setattr(module, "percent", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run()
    assert embedded[0] == ["fp32", "fp16"] * 2
    assert not (tmp_path / "out").exists()
    (tmp_path / ".out.unfinished/measured/bench/fp16.1.json").unlink()  # as if it had not come so far
    (tmp_path / ".out.unfinished/.int8.x").mkdir()  # nor to the end of this
    (tmp_path / ".out.unfinished/.int8.x" / HELD).touch()
    monkeypatch.setattr(module, "make", lambda *_: 1 / 0)
    run()
    assert embedded[0][4:] == ["fp16"]
    assert set(rows_of(tmp_path / "out")) == {(v, p) for v in ("fp32", "fp16") for p in ("local", "global")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert not [*(tmp_path / "out").glob(".*")]


def test_what_was_begun_with_other_options_is_not_taken(ready, tmp_path, embedded):
    stale = tmp_path / ".out.unfinished"
    (stale / "measured/bench").mkdir(parents=True)
    (stale / KEY).write_text("another")
    (stale / "measured/bench/fp32.0.json").write_text('{"wall_time_s": 1}')
    variants(ready[0], [ready[1]], [], "Success@10", 0.5, 1, "cpu", tmp_path / "out")
    assert embedded[0] == ["fp32"]


def test_a_variant_that_crashes_is_named_and_not_chosen(ready, tmp_path, embedded):
    names, dying = embedded
    dying.add("fp16")
    found = variants(ready[0], [ready[1]], ["fp16"], "Success@10", 100.0, 2, "cpu", tmp_path / "out")
    assert found == {"chosen": "fp32"}
    assert names == ["fp32", "fp16", "fp32"]
    assert "fp16 can't be run here: died of signal 11" in (tmp_path / "out/variants.md").read_text()
    assert {name for name, _ in rows_of(tmp_path / "out")} == {"fp32"}
    dying.add("fp32")
    with pytest.raises(UserError, match="fp32 can't be run here: died of signal 11"):
        variants(ready[0], [ready[1]], ["fp16"], "Success@10", 100.0, 2, "cpu", tmp_path / "other")


def test_the_fastest_variant_that_loses_little_in_every_pool_is_chosen():
    exact = module.Measured([3.0, 3.0, 9.0], 0.0, {"local": 70.0, "global": 60.0})
    fast = module.Measured([1.0, 1.0, 3.0], 0.01, {"local": 69.5, "global": 60.2})
    faster = module.Measured([0.5, 0.5, 1.5], 0.1, {"local": 70.0, "global": 59.0})
    slow = module.Measured([4.0, 4.0, 1.0], 0.0, {"local": 70.0, "global": 60.0})
    found = {"clipart9": {"fp32": exact, "fast": fast, "faster": faster, "slow": slow}}
    assert module.chosen(found, 0.5) == "fast"
    assert module.chosen(found, 0.4) == "fp32"
    assert module.chosen(found, 1.0) == "faster"
    elsewhere = found["clipart9"] | {"fast": fast._replace(percent={"local": 69.0, "global": 60.0})}
    assert module.chosen(found | {"emoji9": elsewhere}, 0.5) == "fp32"
    assert module.chosen(found | {"emoji9": elsewhere}, 0.0) == "fp32"


def test_benchmarks_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected folders with names of their own"):
        variants(tmp_path, [tmp_path / "a/x", tmp_path / "b/x"], [], "Success@10", 0.5, 1, "cpu", tmp_path / "out")


def test_what_is_no_model_and_no_benchmark_is_said_before_any_work(ready, tmp_path, embedded):
    for model, bench, message in (
        (tmp_path / "none", ready[1], "none is no exported model"),
        (ready[0], tmp_path / "none", "none does not exist; run `prepare`"),
    ):
        with pytest.raises(UserError, match=message):
            variants(model, [bench], [], "Success@10", 0.5, 1, "cpu", tmp_path / "out")
    assert embedded[0] == []
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("measure", "within", "repeats", "message"),
    [
        ("Success@10", 0.5, 0, "--repeats 0: expected 1 or more"),
        ("Success@10", -1.0, 1, "--within -1: expected 0 or more; fp32 itself loses 0"),
        ("Success@10", float("nan"), 1, "--within nan: expected 0 or more"),
        ("Foo@3", 0.5, 1, "measure 'Foo@3': expected one of ir_measures' with a cut-off"),
    ],
)
def test_options_that_leave_nothing_to_choose_are_refused(tmp_path, measure, within, repeats, message):
    with pytest.raises(ValueError, match=message):
        variants(tmp_path, [tmp_path], [], measure, within, repeats, "cpu", tmp_path / "out")
    assert not (tmp_path / "out").exists()
