"""Checkpoints: a folder per seed with weights as safetensors, checkpoint.json and curve.csv."""

import csv
import json
from pathlib import Path
from typing import Any


def write_checkpoint(folder: Path, file: str, state: Any, about: dict[str, Any], curve: list[dict[str, float]]) -> None:
    """Write weights, what they are, and the curve."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(dict(sorted(state.items())), folder / file)
    (folder / "checkpoint.json").write_text(json.dumps(about | {"weights": file}, indent=2, sort_keys=True) + "\n")
    with (folder / "curve.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(curve[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(curve)


def read_about(folder: Path, backbone: str) -> dict[str, Any]:
    """Read checkpoint.json.

    Raises:
        ValueError: there is none, or it is another backbone's.
    """
    try:
        about: dict[str, Any] = json.loads((folder / "checkpoint.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is no checkpoint: {error}") from error
    if about["backbone"] != backbone:
        raise ValueError(f"{folder} is a checkpoint of backbone '{about['backbone']}', expected '{backbone}'")
    return about


def read_checkpoint(folder: Path, backbone: str) -> dict[str, Any]:
    """Read the weights of a checkpoint as torch tensors.

    Raises:
        ValueError: as read_about, or the weights can't be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / read_about(folder, backbone)["weights"]
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"can't read {path}: {error}") from error


def read_curves(checkpoints: Path) -> dict[int, list[float]]:
    """Read the losses of every seed of a recipe."""
    curves = {}
    for seed in sorted(checkpoints.glob("seed*")):
        with (seed / "curve.csv").open(newline="") as file:
            curves[int(seed.name.removeprefix("seed"))] = [float(row["loss"]) for row in csv.DictReader(file)]
    return curves
