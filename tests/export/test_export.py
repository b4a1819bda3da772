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
from support.models import LOOK, TINYCLIP, row_of, tinyclip
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


def test_heads_alone_have_no_variants(tmp_path):
    from gcl.export.smaller import make

    (tmp_path / "export.json").write_text(json.dumps({"kind": "heads", "graphs": {}}))
    with pytest.raises(ValueError, match="holds heads only; join it with `gcl bundle` first"):
        make(tmp_path, "fp16", tmp_path / "out")
