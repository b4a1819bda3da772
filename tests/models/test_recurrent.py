"""The recurrent cell: the official one's outputs, what is absent, and how it is stored and exported."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gcl.common.errors import UserError
from gcl.config.backbones import Backbone, Preprocess
from gcl.config.recipes import Loss, Recipe
from gcl.export.export import export_graphs, write_head
from gcl.infer.encoder import run_batches
from gcl.infer.session import open_session
from gcl.models.modules.recurrent import Cell, Recurrent, RecurrentModel, Sizes
from gcl.models.recurrent import build, cell, towers
from gcl.train.heads.frozen import Features, train_heads
from gcl.train.heads.recurrent import CellHead, OfModality, stored_cell
from support.training import pairs, trains_and_loads  # noqa: F401 - fixtures among them

HERE = Path(__file__).parent
# Their names of the weights -> ours.
NAMES = {
    "query_hidden_states": "tokens", "sa": "own", "xa_ln": "norm", "mlp_ln": "mlp_norm", "text_xa": "text_attention",
    "vision_xa": "image_attention", "text_ln": "text_norm", "vision_ln": "image_norm", "text_input_gate_w": "text_in",
    "vision_input_gate_w": "image_in", "text_forget_gate_w": "text_keep", "vision_forget_gate_w": "image_keep",
    "mlp.0": "mlp.0", "mlp.3": "mlp.2",
}  # fmt: skip


def official(name):
    """What aimagelab/ReT's RetCell (3fee6aab) made of three layers of random tokens with random weights."""
    arrays = load_file(HERE / "ret_cell.safetensors")
    state = {}
    for key, value in arrays.items():
        if key.startswith(f"{name}."):
            theirs = key.removeprefix(f"{name}.")
            prefix = max((p for p in NAMES if theirs == p or theirs.startswith(f"{p}.")), key=len)
            state[NAMES[prefix] + theirs.removeprefix(prefix)] = value
    return state, {
        key.split("/")[-1]: v
        for key, v in arrays.items()
        if "." not in key and key.split("/")[0] in (name, "has_text", "has_image")
    }


@pytest.mark.parametrize(("name", "tokens"), [("one", 1), ("three", 3)])
def test_the_cell_is_the_official_one(name, tokens):
    state, given = official(name)
    priors = {"gate_prior": -0.5, "keep_prior": 1.5, "tanh": tokens == 3}
    one = Cell(Sizes(width=8, tokens=tokens, heads=2, hidden=12, **priors)).eval()
    one.load_state_dict(state)
    there = {"image": given["has_image"], "text": given["has_text"]}
    with torch.inference_mode():
        found = one.tokens.expand(5, -1, -1)
        for image, text in zip(given["image"], given["text"], strict=True):
            found = one(found, {"image": image, "text": text}, there)
    torch.testing.assert_close(found, given["out"], rtol=1e-6, atol=1e-6)


LAYERS, SIZES = ([3, 5], [4, 4]), Sizes(width=8, tokens=2, heads=2, hidden=6)


@pytest.fixture
def data():
    torch.manual_seed(0)
    latent, rows = torch.randn(64, 12), torch.arange(64)
    images, text = 3 + latent @ torch.randn(12, 8), latent @ torch.randn(12, 8) - 1
    both = torch.cat([images, text], 1)
    ones = torch.ones(64)
    return Features(torch.cat([images, images]), text, both, rows, rows[:, None], rows[:, None], ones, None)


def make(image, text):
    assert (image, text) == (8, 8)
    return Recurrent(*LAYERS, SIZES, 16)


LOSS = Loss(directions={"image>text": 1, "image_text>image": 1}, denominator="target_only", temperature=0.1)
PLAN = Recipe(loss=LOSS, epochs=30, batch_size=32, learning_rate=3e-3)


def trained(data, plan=PLAN, start=None):
    return train_heads(data, plan, make, "native", 16, 0, start, "test")


def test_it_learns_and_is_stored_so_that_it_takes_plain_features(data):
    state, curve = trained(data)
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]
    again, _ = trained(data, replace(PLAN, epochs=0), state)
    for key, tensor in state.items():
        torch.testing.assert_close(again[key], tensor, rtol=1e-4, atol=1e-5)
    cut, _ = trained(data, replace(PLAN, epochs=0, width=3), state)
    stored, narrow = (stored_cell(make(8, 8), x) for x in (state, cut))
    with torch.inference_mode():
        whole = OfModality(stored, "image")(data.images[:5])
        torch.testing.assert_close(OfModality(narrow, "image")(data.images[:5]), whole[:, :3], rtol=1e-4, atol=1e-5)


def test_what_is_absent_changes_nothing_and_what_is_there_does(data):
    whole = CellHead(make(8, 8), data.images[:64], data.text)
    views = whole.views()
    image, text = views["image"].standardise(data.images[:4]), views["text"].standardise(data.text[:4])
    both = views["image_text"].standardise(data.fused[:4])
    torch.testing.assert_close(both, torch.cat([image, text], 1))
    with torch.inference_mode():
        found = {name: views[name](x) for name, x in (("image", image), ("text", text), ("image_text", both))}
        other = views["image_text"](torch.cat([image, text.roll(1, 0)], 1))
    assert (found["image_text"] - found["image"]).abs().max() > 1e-3
    assert (found["image_text"] - other).abs().max() > 1e-4


def test_a_checkpoint_of_another_cell_is_refused(data):
    with pytest.raises(UserError, match="checkpoint of another backbone"):
        trained(data, PLAN, {"head.project.weight": torch.zeros(16, 8)})


def row(**config):
    how = Preprocess(size=64, resize="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    text = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 6, "num_attention_heads": 2}
    cfg = {
        "vision": {"timm_model_name": "test_efficientnet"}, "in_order": False,
        "layers": {"image": [16, 24, 32, 48, 64, 256], "text": [8] * 6},
        "cell": {"width": 8, "heads": 2, "hidden": 6, "tokens": 2}, "embed_dim": 16,
        "text": text | {"intermediate_size": 12, "vocab_size": 30},
    }  # fmt: skip
    weights = {"image": "w/image.pth", "text": "w/text.safetensors"}
    return Backbone(
        family="recurrent", model_cfg=cfg | config, weights=weights, fusion="native", preprocess=how, context=12,
        tokenizer="w/tokenizer.json",
    )  # fmt: skip


@pytest.fixture
def built(tmp_path):
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    (tmp_path / "w").mkdir()
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1} | {f"w{i}": i for i in range(2, 30)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "w/tokenizer.json"))
    model = RecurrentModel(row().model_cfg)
    torch.save(model.trunk.state_dict(), tmp_path / "w/image.pth")
    save_file(model.bert.state_dict(), tmp_path / "w/text.safetensors")
    return build(row(), tmp_path)


@pytest.mark.slow
def test_graphs_are_torchs(built, tmp_path):
    export_graphs(tmp_path, built.graphs(), built)  # refuses what disagrees with torch
    export_graphs(tmp_path, towers(built), built)


def test_stored_and_exported_cells_take_the_towers_outputs(built, tmp_path):
    with torch.inference_mode():
        layers = {name: graph.module(*graph.inputs.values()) for name, graph in towers(built).items()}
    image, text = layers["image"][0], layers["text"]
    assert (image.shape, text.shape) == ((3, 440), (3, 48))
    torch.testing.assert_close(layers["image_text"], torch.cat([image, text], 1))
    head = CellHead(cell(row(), 440, 48), image, text)
    head.get_buffer("image_deviation").fill_(2.0)
    head.get_buffer("text_deviation").fill_(0.5)
    state, stored = head.folded(), stored_cell(cell(row(), 440, 48), head.folded())
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    for modality, features in (("image", image), ("text", text), ("image_text", layers["image_text"])):
        path, rows = tmp_path / f"head_{modality}.onnx", features.repeat(3, 1)
        write_head(row(), {}, arrays, modality, features.numpy(), path)
        found = run_batches(open_session(path, "cpu", 1), rows.numpy())
        with torch.inference_mode():
            view = head.views()[modality]
            np.testing.assert_allclose(found, view(view.standardise(rows)).numpy(), atol=1e-4)
            np.testing.assert_allclose(found, OfModality(stored, modality)(rows).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"layers": {"image": [3, 5], "text": [48]}},
            "model_cfg.layers.image is .3, 5., 8 in all; the towers give 440",
        ),
        ({"layers": {"image": [440], "text": [24, 24]}}, "1 layers of the image tower and 2 of the text tower"),
        ({"cell": {"width": 10, "heads": 4}}, "a width that twice its heads divide"),
        ({"cell": {"witdh": 8}}, "model_cfg.cell: .*'witdh'; expected some of width, tokens, heads"),
    ],
)
def test_layers_that_do_not_match_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        cell(row(**config), 440, 48)


def test_whole_models_train_and_their_checkpoints_load(built, tmp_path, pairs):  # noqa: F811 - a fixture
    trains_and_loads(row(), "head", pairs, tmp_path)


def test_late_interaction_trains_and_its_tokens_are_unit_vectors(data):
    def several(image, text):
        return Recurrent(*LAYERS, SIZES, 16, late=2)

    state, curve = train_heads(data, PLAN, several, "native", 16, 0, None, "test", late=2)
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]
    with torch.inference_mode():
        found = OfModality(stored_cell(several(8, 8), state), "image_text")(data.fused)
    assert found.shape == (64, 32)
    torch.testing.assert_close(found.view(64, 2, 16).norm(dim=2), torch.full((64, 2), 2**-0.5))
    with pytest.raises(UserError, match="late: 3 vectors of an item, and the cell has 2 tokens"):
        Recurrent(*LAYERS, SIZES, 16, late=3)


def test_whole_models_of_several_vectors_train_too(built, tmp_path, pairs):  # noqa: F811 - a fixture
    trains_and_loads(replace(row(), late=2), "head", pairs, tmp_path)
