"""Small trainings of tiny models."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from gcl.common.arrays import MODALITIES
from gcl.common.rows import to_json
from gcl.config.recipes import Full, Loss, Recipe
from gcl.export.export import export
from gcl.infer.infer import infer
from gcl.models import family
from gcl.models.weights.model_card import card
from gcl.prepare.prepare import prepare_pairs
from gcl.retrieve.calibrate import calibrate
from gcl.train.train import train
from support.models import clip_row, row_of, tinyclip
from support.shared import shared

SIX = {f"{a}>{b}": 1.0 for a in MODALITIES for b in MODALITIES if a != b}


CL = {"image>text": 1.0, "text>image": 1.0}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, root):
    """The first forty pairs of the demo."""
    folder = tmp_path_factory.mktemp("pairs")
    prepare_pairs(root / "data/openclipart", "pictures", 0.0, 40, folder / "prepared")
    return folder / "prepared"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    save_file({k: v.clone() for k, v in tinyclip().state_dict().items()}, folder / "tiny.safetensors")
    return folder


def row():
    return clip_row({"model": "tiny.safetensors"})


def recipe(full=None, **more):
    loss = more.pop("loss", {})
    base = {"directions": SIX, "denominator": "no_self", "temperature": 0.05} | loss
    values = {"trainable": "all", "epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "warmup": 0.1} | more
    return Recipe(loss=Loss(**base), full=Full(**(full or {})), **values)


def run(backbone, plan, pairs, data, output, sentences=None, tensorboard=None):
    train("tiny", backbone, plan, [0], pairs, data, None, None, None, sentences, None, tensorboard, "cpu", 2, output)
    return load_file(next((output / "seed0").glob("*.safetensors"))), (output / "seed0/curve.csv").read_text()


def trains_and_loads(backbone, part, pairs, folder):
    """Train a whole model whose checkpoint is of layout `row`; load it by the lines that its card has."""
    changed, _ = run(backbone, recipe(max_steps=2), pairs, folder, folder / "out")
    fresh = family(backbone.family).build(backbone, folder).model
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    fresh.load_state_dict(load_file(folder / "out/seed0/model.safetensors"))
    assert changed.keys() == before.keys()
    assert any(not torch.equal(before[name], changed[name]) for name in before if part in name)
    about = {"backbone": "mine", "recipe": json.loads(to_json(recipe())), "trainable": "all", "seed": 0}
    assert 'backbones["mine"]' in card(about, "row", "a title")


def close(a, b, atol):
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=atol, msg=lambda m, key=key: f"{key}: {m}")


def command(backbone, plan, pairs, data, output, *more):
    arguments = {"name": "tiny", "backbone": to_json(backbone), "recipe": to_json(plan), "seeds": "0", "pairs": pairs}
    arguments |= {"data": data, "device": "cpu", "output": output}
    return ["gcl.train", *(str(x) for k, v in arguments.items() for x in (f"--{k}", v)), *more]


def exported(kind, data, pairs, calibrated=True):
    """Export a tiny model of a family; return its folder."""

    def make():
        backbone, nothing = row_of(kind, data), (None,) * 6
        train("tiny", backbone, recipe(epochs=0), [0], pairs, data, *nothing, "cpu", 1, data / "checkpoints")
        export("all", "tiny", backbone, data, data / "checkpoints", None, data / "exported")
        return data / "exported"

    shutil.copytree(shared(data, kind, make), data / "onnx")
    if calibrated:
        infer(data / "onnx/seed0", pairs, None, "cpu", 1, False, False, (0, 1), data / "pairs")
        calibrate(data / "pairs", pairs, data / "onnx/seed0", data / "calibration")
        shutil.copyfile(data / "calibration/calibration.json", data / "onnx/seed0/calibration.json")
    return data / "onnx/seed0"
