"""Train one recipe, all its seeds.

In:  prepared pairs; for `trainable: heads` the towers' features of them, for `trainable: all` the
     backbone's weights; the checkpoints of the recipe that is continued, if any.
Out: <output>/seed<n>/ with weights as safetensors, checkpoint.json, curve.csv and, for heads, parity.npz.
"""

import json
import logging
import multiprocessing
from pathlib import Path
from typing import Any

from gcl.checkpoints import read_checkpoint, write_checkpoint
from gcl.command import parser, run
from gcl.config import Backbone, Recipe, from_json, to_json
from gcl.files import atomic_path

log = logging.getLogger(__name__)


def train_seed(name: str, backbone: Backbone, recipe: Recipe, seed: int, paths: dict[str, Any], folder: Path) -> None:
    """Train one seed into `folder`."""
    import numpy as np
    import torch

    # One thread: the result doesn't depend on how many cores the job was given.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # gradients of far negatives are denormal, and slow as such
    start = None if paths["init"] is None else read_checkpoint(paths["init"] / f"seed{seed}", name)
    about = {"backbone": name, "trainable": recipe.trainable, "recipe": json.loads(to_json(recipe)), "seed": seed}
    label = f"train {folder.parent.name} seed {seed}"
    if recipe.trainable == "heads":
        from gcl.train_heads import parity_sample, read_features, train_heads

        if paths["features"] is None:
            raise ValueError("trainable: heads needs --features, the towers' outputs for the pairs")
        data = read_features(paths["pairs"], paths["features"])
        state, curve = train_heads(data, recipe, backbone.fusion, backbone.model_cfg["embed_dim"], seed, start, label)
        write_checkpoint(folder, "heads.safetensors", state, about, curve)
        np.savez(folder / "parity.npz", **parity_sample(data, state))  # type: ignore[arg-type]
    else:
        from gcl.train_all import train_all

        state, curve = train_all(backbone, paths["data"], paths["pairs"], recipe, seed, start, label, paths["device"])
        write_checkpoint(folder, "open_clip_model.safetensors", state, about, curve)


def train(
    name: str,
    backbone: Backbone,
    recipe: Recipe,
    seeds: list[int],
    pairs: Path,
    data: Path,
    features: Path | None,
    init: Path | None,
    device: str,
    workers: int,
    output: Path,
) -> None:
    """Train every seed; several at a time if `workers` allows, with the same result."""
    paths = {"pairs": pairs, "data": data, "features": features, "init": init, "device": device}
    with atomic_path(output) as folder:
        folder.mkdir()
        tasks = [(name, backbone, recipe, seed, paths, folder / f"seed{seed}") for seed in seeds]
        if workers == 1 or len(seeds) == 1:
            for task in tasks:
                train_seed(*task)
        else:
            with multiprocessing.get_context("fork").Pool(min(workers, len(seeds))) as pool:
                pool.starmap(train_seed, tasks, chunksize=1)


def main() -> None:
    """Run from the command line."""
    made = parser("train", __doc__, "--name clip_lite --backbone '{...}' --recipe '{...}' --seeds 0 1 2 ...")
    made.add_argument("--name", required=True, help="row of config/backbones.yaml")
    made.add_argument("--backbone", required=True, type=from_json(Backbone), help="that row as JSON")
    made.add_argument("--recipe", required=True, type=from_json(Recipe), help="row of config/recipes.yaml as JSON")
    made.add_argument("--seeds", required=True, type=int, nargs="+")
    made.add_argument("--pairs", required=True, type=Path, help="prepared folder of training pairs")
    made.add_argument("--data", type=Path, default=Path("data"), help="folder of fetched data sets")
    made.add_argument("--features", type=Path, help="towers' outputs for the pairs (trainable: heads)")
    made.add_argument("--init", type=Path, help="checkpoints of the recipe that is continued")
    made.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"], help="for trainable: all")
    made.add_argument("--workers", type=int, default=1, help="seeds trained at the same time")
    made.add_argument("--output", required=True, type=Path, help="folder to write")
    run(made, train)


if __name__ == "__main__":
    main()
