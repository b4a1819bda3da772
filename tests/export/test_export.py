"""Whole models to ONNX and back: every family, parity, and what inference reads from the folder alone."""

import json

import numpy as np
import onnx
import pytest
import torch

from gcl.common.arrays import unit
from gcl.common.errors import UserError
from gcl.data.images import load
from gcl.data.records import fused_keys, read_pairs, read_parquet
from gcl.export.export import export
from gcl.infer.infer import infer
from gcl.infer.store import read_outputs
from gcl.models import family
from gcl.models.tokenizers import to_ids
from gcl.prepare.prepare import prepare_pairs
from gcl.retrieve.calibrate import calibrate
from gcl.retrieve.calibration import read_calibration
from gcl.train.train import train
from support.models import LOOK, TINYCLIP, row_of, tiny_vista, tinyclip
from support.training import recipe
from support.workflow import ROOT


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    prepare_pairs(ROOT / "data/openclipart", "pictures", 0.0, 70, folder / "prepared")
    return folder / "prepared"


@pytest.fixture(scope="module", params=["clip", "pruned", "vista"])
def exported(request, tmp_path_factory, pairs):
    """A tiny model of each family: its row, its folder of weights, its checkpoints and graphs."""
    data = tmp_path_factory.mktemp(request.param)
    backbone = row_of(request.param, data)
    plan = recipe(max_steps=1)
    train("tiny", backbone, plan, [0], pairs, data, None, None, None, None, None, None, "cpu", 1, data / "checkpoints")
    export("all", "tiny", backbone, data, data / "checkpoints", None, data / "onnx")
    return backbone, data


def literal_outputs(backbone, data, pairs):
    """Torch on one image and one text at a time."""
    from gcl.models.weights.checkpoints import read_start

    built = family(backbone.family).build(backbone, data)
    read_start(built.model, data / "checkpoints/seed0", "tiny")
    built.model.eval()
    locations = read_parquet(pairs / "locations.parquet")["location"].to_pylist()
    texts = read_parquet(pairs / "texts.parquet")["text"].to_pylist()
    pixels = torch.from_numpy(np.stack([load(x, LOOK) for x in locations]))
    ids = [torch.from_numpy(to_ids(built.tokenizer, [t], built.clean)) for t in texts]
    with torch.inference_mode():
        image = torch.cat([built.encode(p[None], ids[0])["image"] for p in pixels])
        text = torch.cat([built.encode(pixels[:1], i)["text"] for i in ids])
        if backbone.fusion != "native":
            return image, text, None
        keys = fused_keys(pairs)
        fused = torch.cat([built.encode(pixels[i : i + 1], ids[t])["image_text"] for i, t in keys])
    return image, text, fused


def test_inference_needs_nothing_but_the_folder_and_agrees_with_torch(exported, pairs, tmp_path):
    backbone, data = exported
    infer(data / "onnx/seed0", pairs, None, "cpu", 1, False, False, (0, 1), tmp_path / "out")
    found = read_outputs([tmp_path / "out"])
    for expected, array in zip(literal_outputs(backbone, data, pairs), found[:3], strict=True):
        assert (expected is None) == (array is None)
        if expected is not None:
            np.testing.assert_allclose(array, expected.numpy(), atol=2e-5)


def test_the_export_says_what_inference_needs(exported):
    backbone, data = exported
    about = json.loads((data / "onnx/seed0/export.json").read_text())
    native = backbone.fusion == "native"
    assert set(about["graphs"]) == {"image", "text"} | ({"image_text"} if native else set())
    assert about["activation"] == "gelu"
    assert about["preprocess"]["size"] == 32
    assert about["clean"] == ("none" if native else "clip")
    assert len(about["tokenizer"]["sha256"]) == 64
    assert all(p["relative_error"] < 1e-4 for p in about["parity"].values() if isinstance(p, dict))
    for name, row in about["graphs"].items():
        graph = onnx.load(data / f"onnx/seed0/{row['file']}").graph
        assert all(value.type.tensor_type.shape.dim[0].dim_param for value in [*graph.input, *graph.output]), name
        assert graph.output[0].name == "features"


def test_calibration_is_fitted_on_the_vectors_of_the_pairs(exported, pairs, tmp_path):
    backbone, data = exported
    infer(data / "onnx", pairs, None, "cpu", 1, False, False, (0, 1), tmp_path / "vectors")
    calibrate(tmp_path / "vectors", pairs, data / "onnx", tmp_path / "calibrations")
    stats = read_calibration(tmp_path / "calibrations/seed0.json")
    images, prepared = unit(read_outputs([tmp_path / "vectors/seed0"]).image), read_pairs(pairs)
    np.testing.assert_allclose(stats.image_mean, images[prepared.image_rows].mean(0), atol=1e-6)
    assert (stats.fused_mean is not None) == (backbone.fusion == "native")
    assert set(stats.scales) == {"none", "center"}


def test_vectors_of_other_pairs_are_refused(exported, pairs, tmp_path):
    _, data = exported
    prepare_pairs(ROOT / "data/openclipart", "pictures", 0.0, 20, tmp_path / "fewer")
    infer(data / "onnx", tmp_path / "fewer", None, "cpu", 1, False, False, (0, 1), tmp_path / "vectors")
    with pytest.raises(UserError, match=r"20 image vectors, but .* has 70; run `infer` on these pairs again"):
        calibrate(tmp_path / "vectors", pairs, data / "onnx", tmp_path / "calibrations")
    with pytest.raises(UserError, match=r"holds neither image\.npy nor folders of seeds"):
        calibrate(pairs, pairs, data / "onnx", tmp_path / "calibrations")
    with pytest.raises(ValueError, match="--bank -3: expected 0 for none"):
        calibrate(tmp_path / "vectors", pairs, data / "onnx", tmp_path / "calibrations", -3)


def test_unit_vectors_come_out_of_native_graphs(exported, pairs, tmp_path):
    backbone, data = exported
    infer(data / "onnx/seed0", pairs, None, "cpu", 1, False, False, (0, 1), tmp_path / "out")
    norms = np.linalg.norm(read_outputs([tmp_path / "out"]).image, axis=1)
    assert np.allclose(norms, 1, atol=1e-5) == (backbone.fusion == "native")


def test_a_graph_of_other_weights_fails_parity(tmp_path, pairs):
    """Sabotage: the wrong GELU in the traced module."""
    from gcl.export.export import compare
    from gcl.models.clip import make

    good, bad = tinyclip(), make(TINYCLIP | {"quick_gelu": True}).eval()
    bad.load_state_dict(good.state_dict())
    pixels = torch.randn(3, 3, 32, 32)
    with torch.inference_mode(), pytest.raises(ValueError, match="ONNX and torch disagree"):
        compare(good.encode_image(pixels).numpy(), bad.encode_image(pixels).numpy(), "image.onnx")


def test_variants_are_smaller_and_measured_against_fp32(tmp_path):
    """On a prepared folder of the demo's benchmark, cut to its first queries."""
    import csv

    from gcl.common.rows import load_yaml
    from gcl.config.project import load
    from gcl.prepare.prepare import prepare_benchmark
    from gcl.score.variants import variants

    project = load(load_yaml(ROOT / "config/config.yaml"), ROOT / "config")
    data = ROOT / "data/openclipart"
    prepare_benchmark(data, data, project.benchmarks["clipart9"], 3, 2, tmp_path / "bench")
    prepare_pairs(ROOT / "data/openclipart", "pictures", 0.0, 20, tmp_path / "pairs")
    backbone = tiny_vista(tmp_path, context=24)
    done, nothing = tmp_path / "checkpoints", (None,) * 6
    train("t", backbone, recipe(epochs=0), [0], tmp_path / "pairs", tmp_path, *nothing, "cpu", 1, done)
    export("all", "t", backbone, tmp_path, done, None, tmp_path / "onnx")
    kinds = ["fp16", "int8", "int8_blocks"]
    model, bench, out = tmp_path / "onnx/seed0", tmp_path / "bench", tmp_path / "out"
    found = variants(model, [bench], kinds, "Success@10", 100.0, 1, "cpu", out)
    assert (out / "chosen").resolve() == (out / found["chosen"]).resolve()
    with (out / "variants.csv").open(newline="") as file:
        rows = {(r["variant"], r["pool"]): r for r in csv.DictReader(file)}
    assert set(rows) == {(v, p) for v in ("fp32", *kinds) for p in ("local", "global")}
    for variant, factor, cosine in (("fp16", 0.7, 1e-4), ("int8", 0.7, 0.1), ("int8_blocks", 0.9, 0.01)):
        row, exact = rows[variant, "global"], rows["fp32", "global"]
        assert float(row["megabytes"]) < factor * float(exact["megabytes"])
        assert 0 < float(row["largest_1_minus_cosine"]) < cosine
        difference = float(row["value"]) - float(exact["value"])
        assert float(row["difference_to_fp32"]) == pytest.approx(difference, abs=0.011)
        about = json.loads((tmp_path / f"out/{variant}/export.json").read_text())
        assert about["dtype"] == {"fp16": "float16"}.get(variant, "int8")
    model = onnx.load(tmp_path / "out/fp16/text.onnx")
    norms = {n.output[0] for n in model.graph.node if n.op_type == "LayerNormalization"}
    assert norms
    # Each norm's output is single precision: what reads it is another norm's cast.
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    assert all(kinds.get(name, onnx.TensorProto.FLOAT) == onnx.TensorProto.FLOAT for name in norms)


def test_the_fastest_variant_that_loses_little_in_every_pool_is_chosen():
    from gcl.score.variants import Measured, chosen

    exact = Measured([3.0, 3.0, 9.0], 0.0, {"local": 70.0, "global": 60.0})
    fast = Measured([1.0, 1.0, 3.0], 0.01, {"local": 69.5, "global": 60.2})
    faster = Measured([0.5, 0.5, 1.5], 0.1, {"local": 70.0, "global": 59.0})
    slow = Measured([4.0, 4.0, 1.0], 0.0, {"local": 70.0, "global": 60.0})
    found = {"clipart9": {"fp32": exact, "fast": fast, "faster": faster, "slow": slow}}
    assert chosen(found, 0.5) == "fast"
    assert chosen(found, 0.4) == "fp32"
    assert chosen(found, 1.0) == "faster"
    elsewhere = found["clipart9"] | {"fast": fast._replace(percent={"local": 69.0, "global": 60.0})}
    assert chosen(found | {"emoji9": elsewhere}, 0.5) == "fp32"
    assert chosen(found | {"emoji9": elsewhere}, 0.0) == "fp32"


def test_benchmarks_of_one_name_are_refused(tmp_path):
    from gcl.score.variants import variants

    with pytest.raises(ValueError, match="expected folders with names of their own"):
        variants(tmp_path, [tmp_path / "a/x", tmp_path / "b/x"], [], "Success@10", 0.5, 1, "cpu", tmp_path / "out")


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
    from gcl.score.variants import variants

    with pytest.raises(ValueError, match=message):
        variants(tmp_path, [tmp_path], [], measure, within, repeats, "cpu", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_heads_alone_have_no_variants(tmp_path):
    from gcl.export.smaller import make

    (tmp_path / "export.json").write_text(json.dumps({"kind": "heads", "graphs": {}}))
    with pytest.raises(ValueError, match="holds heads only; join it with `gcl bundle` first"):
        make(tmp_path, "fp16", tmp_path / "out")
