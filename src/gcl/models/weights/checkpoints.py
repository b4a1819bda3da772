"""Checkpoints: a folder per seed with weights as safetensors, checkpoint.json and curve.csv.

heads       heads.safetensors alone: the towers are the backbone's own
open_clip   open_clip_model.safetensors and open_clip_config.json: open_clip loads the folder as `local-dir:`
pruned      pruned_clip.safetensors, open_clip's names; sizes are read from the tensors
vista       vista.safetensors and vista_config.json: the names of models/modules/vista.py
row         model.safetensors: what the backbone's row is built as, pixel and recurrent

A whole model's folder also has its tokenizer.json and a model card, README.md.
"""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcl.common.errors import UserError
from gcl.common.files import write_json
from gcl.common.rows import mapping, to_json
from gcl.config.recipes import Recipe

if TYPE_CHECKING:
    from torch import nn

    from gcl.models import Built

FILES = {
    "open_clip": "open_clip_model.safetensors",
    "pruned": "pruned_clip.safetensors",
    "vista": "vista.safetensors",
    "row": "model.safetensors",
}
CONFIGS = {"open_clip": "open_clip_config.json", "vista": "vista_config.json"}
CURVE = ("step", "epoch", "loss", "learning_rate", "duplicates")  # columns where nothing was trained


def write_checkpoint(folder: Path, file: str, state: Any, about: dict[str, Any], curve: list[dict[str, float]]) -> None:
    """Write weights, what they are, and the curve."""
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in sorted(state.items())}, folder / file)
    (folder / file).chmod(0o644)  # safetensors makes files for their owner alone
    write_json(folder / "checkpoint.json", about | {"weights": file})
    with (folder / "curve.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(curve[0]) if curve else CURVE, lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve)


def checkpoint_about(name: str, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Return what checkpoint.json says of every checkpoint."""
    return {
        "backbone": name,
        "trainable": recipe.trainable,
        "recipe": json.loads(to_json(recipe)),
        "seed": seed,
    }


def write_model(folder: Path, built: "Built", about: dict[str, Any], curve: list[dict[str, float]]) -> None:
    """Write a whole model: weights, config, tokenizer."""
    state = {k: v.detach().cpu().clone() for k, v in built.model.state_dict().items()}
    write_checkpoint(folder, FILES[built.layout], state, about | {"layout": built.layout}, curve)
    if built.layout in CONFIGS:
        write_json(folder / CONFIGS[built.layout], built.config)
    built.tokenizer.save(str(folder / "tokenizer.json"))


def read_start(model: "nn.Module", folder: Path, backbone: str) -> None:
    """Load a checkpoint of heads or of a whole model into a model.

    Raises:
        UserError: it is another backbone's, or doesn't fit.
    """
    from gcl.models.weights.layouts import load_strictly

    state = read_checkpoint(folder, backbone)
    if read_about(folder, backbone)["trainable"] == "heads":
        state = model.state_dict() | state
    load_strictly(model, state, str(folder))


def read_about(folder: Path, backbone: str) -> dict[str, Any]:
    """Read checkpoint.json.

    Raises:
        UserError: there is none, or it is another backbone's.
    """
    try:
        about = mapping(
            json.loads((folder / "checkpoint.json").read_text(encoding="utf-8")), str(folder / "checkpoint.json")
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no checkpoint: {error}") from error
    if (actual := about.get("backbone")) != backbone:
        raise UserError(f"{folder} is a checkpoint of backbone '{actual}', expected '{backbone}'")
    if not isinstance(file := about.get("weights"), str) or Path(file).name != file:
        raise UserError(f"{folder}/checkpoint.json: 'weights' is {file!r}, expected the name of a file beside it")
    return about


def read_checkpoint(folder: Path, backbone: str) -> dict[str, Any]:
    """Read the weights of a checkpoint as torch tensors.

    Raises:
        UserError: as read_about, or the weights can't be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / read_about(folder, backbone)["weights"]
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"can't read {path}: {error}") from error


def read_curve(folder: Path) -> list[dict[str, float]]:
    """Read curve.csv of one seed."""
    with (folder / "curve.csv").open(newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def read_curves(checkpoints: Path) -> dict[int, list[float]]:
    """Read the losses of every seed of a recipe."""
    return {
        int(seed.name.removeprefix("seed")): [row["loss"] for row in read_curve(seed)]
        for seed in sorted(checkpoints.glob("seed*"))
    }
