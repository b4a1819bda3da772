"""Heads, checkpoints and ONNX."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from gcl.common.devices import has_cuda
from gcl.data.records import Pair, write_pairs
from gcl.export.export import compare, export_heads
from gcl.export.graphs import check_free, export_module, head_graph
from gcl.infer.encoder import run_batches
from gcl.infer.infer import infer_features
from gcl.infer.session import open_session
from gcl.models.base import Graph
from gcl.models.timm_hf import HEADS, load_by_name, load_in_order
from gcl.models.weights.checkpoints import read_checkpoint, write_checkpoint
from gcl.models.weights.layouts import read_weights
from gcl.train.heads.head import Head, apply_folded
from gcl.train.train import Paths, train_heads_seed
from support.arrays import SAME


@pytest.fixture
def features():
    return torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 12) + 1


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_stored_head_acts_on_plain_features_as_the_trained_one(modality, features):
    head = Head(HEADS[modality], features, 8, 0.3).eval()
    torch.testing.assert_close(
        apply_folded(HEADS[modality], head.folded(), features), head(head.standardise(features)), rtol=1e-4, atol=1e-5
    )
    again = Head(HEADS[modality], features, 8, 0.3).eval()
    again.unfold(head.folded())
    torch.testing.assert_close(
        again(again.standardise(features)), head(head.standardise(features)), rtol=1e-4, atol=1e-5
    )


def test_stored_heads_fit_open_clip_strictly(project, features):
    from open_clip.hf_model import HFTextEncoder
    from open_clip.timm_model import TimmModel
    from transformers import BertConfig

    config = project.backbones["clip_lite"].model_cfg
    image = TimmModel(config["vision_cfg"]["timm_model_name"], config["embed_dim"], proj="mlp", pool="avg")
    bert = BertConfig(hidden_size=384, num_hidden_layers=1, num_attention_heads=12, vocab_size=10)
    text = HFTextEncoder("", config["embed_dim"], bert, pooler_type="mean_pooler", proj_type="mlp")
    for modality, module, prefix, width in (
        ("image", image.head, "visual.head.", 1280),
        ("text", text.proj, "text.proj.", 384),
    ):
        x = torch.randn(20, width)
        state = Head(HEADS[modality], x, config["embed_dim"], 0.0).folded()
        module.load_state_dict({k.removeprefix(prefix): v for k, v in state.items()})
        torch.testing.assert_close(module.eval()(x), apply_folded(HEADS[modality], state, x))


def test_a_head_of_other_shape_is_refused(features):
    state = Head(HEADS["image"], features, 8, 0.0).folded()
    with pytest.raises(
        ValueError,
        match=r"checkpoint of another backbone\? visual.head.mlp.fc1.weight: expected \(32, 12\), found \(16, 12\)",
    ):
        Head(HEADS["image"], features, 16, 0.0).unfold(state)


def test_a_checkpoint_of_another_backbone_is_refused(tmp_path):
    write_checkpoint(tmp_path / "s", "heads.safetensors", {"x": torch.zeros(1)}, {"backbone": "other"}, [{"step": 0}])
    with pytest.raises(ValueError, match="checkpoint of backbone 'other', expected 'clip_lite'"):
        read_checkpoint(tmp_path / "s", "clip_lite")
    with pytest.raises(ValueError, match="is no checkpoint"):
        read_checkpoint(tmp_path / "nothing", "clip_lite")


def test_weights_that_do_not_fit_a_tower_are_refused():
    tower = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    good = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 5)).state_dict()
    load_in_order(tower, {f"x{k}": v for k, v in good.items()}, "w")
    torch.testing.assert_close(tower[1].weight, good["1.weight"])
    with pytest.raises(ValueError, match="w holds"):
        load_in_order(tower, nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2), nn.Linear(2, 5)).state_dict(), "w")
    with pytest.raises(ValueError, match="w doesn't fit: missing"):
        load_by_name(tower, {"0.weight": torch.zeros(4, 3)}, "w")


def test_an_exported_graph_takes_any_batch(tmp_path):
    module = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.LayerNorm(5)).eval()
    export_module(Graph(module, {"x": torch.randn(2, 6)}, {"x": ("batch",)}), tmp_path / "m.onnx")
    session = open_session(tmp_path / "m.onnx", "cpu")
    for n in (1, 2, 7):
        x = torch.randn(n, 6)
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], module(x).detach().numpy(), atol=1e-5)


def test_a_graph_with_a_fixed_batch_is_refused(tmp_path, features):
    head_graph(np.ones((4, 3)), None, np.ones((2, 4)), tmp_path / "h.onnx")
    model = onnx.load(tmp_path / "h.onnx")
    check_free(model, {"x": 1})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(ValueError, match="fixed dimension 0 of 'x' at 2"):
        check_free(model, {"x": 1})


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_head_graph_computes_the_head(tmp_path, modality, features):
    state = Head(HEADS[modality], features, 8, 0.0).folded()
    keys = HEADS[modality]
    bias = state[keys.bias].numpy() if keys.bias else None
    head_graph(state[keys.first].numpy(), bias, state[keys.second].numpy(), tmp_path / "h.onnx")
    found = run_batches(open_session(tmp_path / "h.onnx", "cpu"), features.numpy())
    np.testing.assert_allclose(found, apply_folded(HEADS[modality], state, features).numpy(), atol=1e-5)


@pytest.fixture
def trained(tmp_path, project, rng):
    """Twelve pairs with made-up tower outputs, trained for an epoch: everything before `export`."""
    recipe = project.recipes["pretrained"]
    object.__setattr__(recipe := type(recipe)(**{**vars(recipe), "epochs": 1, "batch_size": 4}), "init", None)
    pairs, features, towers = tmp_path / "pairs", tmp_path / "features", tmp_path / "towers"
    for folder in (pairs, features, towers, tmp_path / "run"):
        folder.mkdir()
    write_pairs(pairs, [Pair(str(i), f"{i}.png", (f"a {i}", f"b {i}")) for i in range(12)], SAME)
    for name, shape in (("image", (12, 1280)), ("image_flipped", (12, 1280)), ("text", (24, 384))):
        np.save(features / f"{name}.npy", rng.normal(size=shape).astype(np.float32))
    about = {"graphs": {"image": "of these towers"}, "preprocess": {}, "context": 64, "clean": "none"}
    (towers / "export.json").write_text(json.dumps(about))
    (features / "towers.json").write_text(json.dumps({"image": "of these towers"}))
    paths = Paths(pairs, tmp_path, features, None, None, None, None, "cpu", 1)
    backbone = project.backbones["clip_lite"]
    train_heads_seed("clip_lite", backbone, recipe, 0, paths, {}, tmp_path / "run/seed0")
    return tmp_path, backbone, recipe, paths


def export_trained(trained, output):
    folder, backbone, *_ = trained
    export_heads("clip_lite", backbone, folder / "run/seed0", folder / "towers", output)


def test_training_twice_gives_the_same_bytes(trained):
    folder, backbone, recipe, paths = trained
    train_heads_seed("clip_lite", backbone, recipe, 0, paths, {}, folder / "run/again")
    for name in ("heads.safetensors", "curve.csv", "parity.npz"):
        assert (folder / "run/seed0" / name).read_bytes() == (folder / "run/again" / name).read_bytes()


def test_exported_heads_record_parity(trained):
    folder = trained[0]
    export_trained(trained, folder / "onnx")
    about = json.loads((folder / "onnx/export.json").read_text())
    assert about["parity"]["image"]["relative_error"] < about["parity"]["tolerance"]
    infer_features(folder / "onnx", folder / "features", "cpu", 1, folder / "out")
    assert np.load(folder / "out/image.npy").shape == (12, 256)


def test_an_export_whose_parity_fails_is_refused(trained):
    folder = trained[0]
    sample = dict(np.load(folder / "run/seed0/parity.npz"))
    sample["text_outputs"] = sample["text_outputs"] * 1.01
    np.savez(folder / "run/seed0/parity.npz", **sample)
    with pytest.raises(ValueError, match="text.onnx: ONNX and torch disagree: relative error 9"):
        export_trained(trained, folder / "onnx")


def test_features_of_other_towers_are_refused(trained):
    folder = trained[0]
    export_trained(trained, folder / "onnx")
    (folder / "features/towers.json").write_text(json.dumps({"image": "of others"}))
    with pytest.raises(ValueError, match="comes from other towers"):
        infer_features(folder / "onnx", folder / "features", "cpu", 1, folder / "out")


def test_nan_in_embeddings_is_refused(trained):
    folder = trained[0]
    export_trained(trained, folder / "onnx")
    bad = np.load(folder / "features/text.npy")
    bad[3] = np.nan
    np.save(folder / "features/text.npy", bad)
    with pytest.raises(ValueError, match="1 of 24 text embeddings hold NaN"):
        infer_features(folder / "onnx", folder / "features", "cpu", 1, folder / "out")


def test_too_few_pairs_for_a_batch_say_so(trained):
    folder, backbone, recipe, paths = trained
    recipe = type(recipe)(**{**vars(recipe), "batch_size": 13})
    with pytest.raises(ValueError, match="12 pairs don't fill one batch of 13; lower batch_size"):
        train_heads_seed("clip_lite", backbone, recipe, 0, paths, {}, folder / "run/x")


def test_parity_refuses_nan():
    with pytest.raises(ValueError, match="NaN"):
        compare(np.ones((2, 2)), np.full((2, 2), np.nan), "x.onnx")


@pytest.mark.skipif(has_cuda(), reason="there is a CUDA device")
def test_cuda_without_a_gpu_is_an_error(tmp_path):
    head_graph(np.ones((4, 3)), None, np.ones((2, 4)), tmp_path / "h.onnx")
    with pytest.raises(ValueError, match="device: cuda was asked for, but there is no CUDA device"):
        open_session(tmp_path / "h.onnx", "cuda")
    assert open_session(tmp_path / "h.onnx", "auto").get_providers() == ["CPUExecutionProvider"]


@pytest.mark.gpu
def test_cuda_runs_on_cuda(tmp_path):
    head_graph(np.ones((4, 3)), None, np.ones((2, 4)), tmp_path / "h.onnx")
    assert open_session(tmp_path / "h.onnx", "cuda").get_providers()[0] == "CUDAExecutionProvider"


def test_a_broken_graph_is_named(tmp_path):
    (tmp_path / "h.onnx").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"can't open ONNX graph .*h\.onnx"):
        open_session(tmp_path / "h.onnx", "cpu")


def test_pickled_objects_are_not_loaded(tmp_path):
    torch.save({"x": shutil.rmtree}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"can't read .*w\.pth as tensors only .*not trusted"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.skipif(has_cuda(), reason="there is a CUDA device")
def test_training_on_cuda_without_a_gpu_is_an_error():
    from gcl.common.torch_device import choose_device

    with pytest.raises(ValueError, match="device: cuda was asked for, but there is no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


def test_a_cut_checkpoint_is_named(tmp_path):
    write_checkpoint(tmp_path / "s", "heads.safetensors", {"x": torch.zeros(9)}, {"backbone": "b"}, [{"step": 0}])
    path = tmp_path / "s/heads.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"can't read .*heads\.safetensors"):
        read_checkpoint(tmp_path / "s", "b")
