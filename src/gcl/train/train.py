"""Train one recipe, all its seeds.

In:  prepared pairs; for `trainable: heads` the towers' features of them, else the backbone's weights; the
     checkpoints of the recipe that is continued, if any.
Out: <output>/seed<n>/ with weights as safetensors, checkpoint.json, curve.csv and, for heads, parity.npz;
     a fully trained open_clip model loads with open_clip.create_model("local-dir:<output>/seed<n>").

A recipe of full training that is killed goes on from --resume to the same result. Several GPUs, or processes:
`torchrun --nproc-per-node 2 -m gcl.train ...`; batch_size is that of all together, and so are the negatives.
"""

import logging
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gcl.common.arrays import MODALITIES
from gcl.common.command import parser, run
from gcl.common.devices import claim_gpu
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.common.rows import from_json
from gcl.config.backbones import Backbone
from gcl.config.datasets import Dataset
from gcl.config.recipes import Recipe
from gcl.models.weights.checkpoints import checkpoint_about, read_checkpoint, write_checkpoint, write_model

log = logging.getLogger(__name__)


class Paths(NamedTuple):
    """Where a training reads and writes."""

    pairs: Path
    data: Path
    features: Path | None
    init: Path | None
    sentences: Path | None
    resume: Path | None
    tensorboard: Path | None
    device: str
    threads: int
    triplets: Sequence[Path] = ()  # a folder of triplets, and the towers' outputs for it
    taught: Path | None = None


def rank_index() -> int:
    """Return this process's number among those that torchrun started, 0 without it."""
    return int(os.environ.get("RANK", "0"))


def train_heads_seed(
    name: str, backbone: Backbone, recipe: Recipe, seed: int, paths: Paths, about: dict[str, Any], folder: Path
) -> None:
    """Train the heads of one seed into `folder`."""
    import numpy as np
    import torch

    from gcl.models import family
    from gcl.train.heads.composed import read_composed
    from gcl.train.heads.distilled import read_taught
    from gcl.train.heads.frozen import parity_sample, read_features, train_heads
    from gcl.train.heads.head import apply_folded
    from gcl.train.heads.recurrent import OfModality, stored_cell

    # One thread: the result doesn't depend on how many cores the job was given.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # gradients of far negatives are denormal, and slow as such
    kind = family(backbone.family)
    keys, cell = kind.heads, partial(kind.cell, backbone) if kind.cell else None
    if (trained := keys or cell) is None:
        raise UserError(f"family {backbone.family} has no heads to train; set `trainable: all`, or a list of layers")
    if paths.features is None:
        raise UserError("trainable: heads needs --features, the towers' outputs for the pairs")
    data = read_features(paths.pairs, paths.features, paths.sentences)
    if recipe.combine is not None:
        combined_seed(name, backbone, recipe, seed, paths, about, folder)
        return
    if recipe.triplets is not None and paths.triplets:
        data = data._replace(composed=read_composed(paths.triplets[0], paths.triplets[1], paths.features))
    if recipe.distil is not None and paths.taught is not None:
        data = data._replace(taught=read_taught(paths.taught, seed, paths.features))
    start = None if paths.init is None else read_checkpoint(paths.init / f"seed{seed}", name)
    label = f"train {folder.parent.name} seed {seed}"
    width = backbone.model_cfg["embed_dim"]
    state, curve = train_heads(data, recipe, trained, backbone.fusion, width, seed, start, label, backbone.late)
    write_checkpoint(folder, "heads.safetensors", state, about | checkpoint_about(name, recipe, seed), curve)
    if keys is not None:
        sample = parity_sample(data, keys, lambda modality, x: apply_folded(keys[modality], state, x))
    elif cell is not None:
        stored = stored_cell(cell(data.images.shape[1], data.text.shape[1]), state)
        with torch.inference_mode():
            sample = parity_sample(data, MODALITIES, lambda modality, x: OfModality(stored, modality)(x))
    np.savez(folder / "parity.npz", **sample)  # type: ignore[arg-type]


def combined_seed(
    name: str, backbone: Backbone, recipe: Recipe, seed: int, paths: Paths, about: dict[str, Any], folder: Path
) -> None:
    """Join the heads of all seeds of the recipe that is continued."""
    import numpy as np

    from gcl.models import family
    from gcl.train.heads.combined import apply_combined, combine
    from gcl.train.heads.frozen import parity_sample, read_features

    if paths.init is None or paths.features is None or recipe.combine is None:
        raise UserError("combine joins the heads of another recipe: name it as `init`")
    keys, how = family(backbone.family).heads, recipe.combine
    if keys is None:
        raise UserError(f"family {backbone.family} has no heads that combine joins")
    data = read_features(paths.pairs, paths.features, None)
    seeds = sorted(paths.init.glob("seed*"), key=lambda path: int(path.name.removeprefix("seed")))
    state = combine(data, keys, [read_checkpoint(path, name) for path in seeds], how)
    write_checkpoint(folder, "heads.safetensors", state, about | checkpoint_about(name, recipe, seed), [])
    sample = parity_sample(data, keys, lambda modality, x: apply_combined(keys[modality], state, modality, x, how))
    np.savez(folder / "parity.npz", **sample)  # type: ignore[arg-type]


def train_whole_seed(
    name: str, backbone: Backbone, recipe: Recipe, seed: int, paths: Paths, about: dict[str, Any], folder: Path
) -> None:
    """Train the weights of one seed; the first process writes them to `folder`."""
    import torch

    from gcl.models import family

    if recipe.loss.widths or recipe.width:
        raise UserError("width and loss.widths are for heads; whole models keep the width of their backbone")
    if recipe.triplets is not None or recipe.distil is not None:
        raise UserError("triplets and distil are for heads; whole models train on pairs alone")
    if family(backbone.family).as_it_is is not None:
        if recipe.epochs:
            raise UserError(f"{name} is used as it is (family {backbone.family}): choose a recipe that trains nothing")
        write_checkpoint(folder, "nothing.safetensors", {}, about | checkpoint_about(name, recipe, seed), [])
        return

    from gcl.train.full import train_all

    torch.set_num_threads(paths.threads)
    built, curve = train_all(name, backbone, recipe, seed, paths, f"train {folder.parent.name} seed {seed}")
    if rank_index() == 0:
        write_model(folder, built, about | checkpoint_about(name, recipe, seed), curve)


def train(
    name: str,
    backbone: Backbone,
    recipe: Recipe,
    seeds: list[int],
    pairs: Path,
    data: Path,
    dataset: Dataset | None,
    features: Path | None,
    init: Path | None,
    sentences: Path | None,
    resume: Path | None,
    tensorboard: Path | None,
    device: str,
    workers: int,
    output: Path,
    triplets: Sequence[Path] = (),
    taught: Path | None = None,
) -> None:
    """Train every seed."""
    if recipe.trainable != "heads" and device != "cpu":
        claim_gpu()
    paths = Paths(pairs, data, features, init, sentences, resume, tensorboard, device, workers, triplets, taught)
    about: dict[str, Any] = {"fusion": backbone.fusion}
    if dataset is not None:
        about["data"] = {"name": pairs.name, "source": dataset.source, "licence": dataset.licence}
    seed_of = train_heads_seed if recipe.trainable == "heads" else train_whole_seed
    if rank_index():  # another process writes
        for seed in seeds:
            seed_of(name, backbone, recipe, seed, paths, about, output / f"seed{seed}")
        return
    with atomic_path(output) as folder:
        folder.mkdir()
        for seed in seeds:
            seed_of(name, backbone, recipe, seed, paths, about, folder / f"seed{seed}")
    if resume is not None:
        shutil.rmtree(resume, ignore_errors=True)


def main() -> None:
    """Run from the command line."""
    options = parser(
        "train",
        __doc__,
        "--name clip_lite --backbone '{...}' --recipe '{...}' --seeds 0 1 2 --pairs results/prepared/openclipart"
        " --features results/embeddings/clip_lite/towers/openclipart --output checkpoints",
    )
    what = options.add_argument_group("what is trained")
    what.add_argument("--name", required=True, help="row of config/backbones.yaml")
    what.add_argument("--backbone", required=True, type=from_json(Backbone), metavar="JSON", help="that row")
    what.add_argument(
        "--recipe", required=True, type=from_json(Recipe), metavar="JSON", help="row of config/recipes.yaml"
    )
    what.add_argument("--seeds", required=True, type=int, nargs="+", metavar="SEED", help="each is a model of its own")
    read = options.add_argument_group("what is read")
    read.add_argument("--pairs", required=True, type=Path, metavar="FOLDER", help="training pairs, as `prepare` writes")
    read.add_argument("--data", type=Path, default=Path("data"), metavar="FOLDER", help="fetched data sets (data)")
    read.add_argument("--dataset", type=from_json(Dataset), metavar="JSON", help="row of the pairs, for the model card")
    read.add_argument(
        "--features", type=Path, metavar="FOLDER", help="towers' outputs for the pairs (trainable: heads)"
    )
    read.add_argument("--init", type=Path, metavar="FOLDER", help="checkpoints of the recipe that is continued")
    read.add_argument(
        "--sentences", type=Path, metavar="FOLDER", help="captions' features by a sentence encoder (loss.separation)"
    )
    read.add_argument(
        "--triplets",
        type=Path,
        nargs=2,
        default=(),
        metavar=("FOLDER", "FEATURES"),
        help="what `compose` or `triplets` wrote, and the towers' outputs for it (recipe.triplets)",
    )
    read.add_argument("--taught", type=Path, metavar="FOLDER", help="what `teach` wrote (recipe.distil)")
    how = options.add_argument_group("how")
    how.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"], help="for training of towers (auto)")
    how.add_argument("--workers", type=int, default=1, metavar="N", help="threads that read images (1)")
    how.add_argument("--resume", type=Path, metavar="FOLDER", help="states of an interrupted run, removed at the end")
    how.add_argument("--tensorboard", type=Path, metavar="FOLDER", help="TensorBoard scalars")
    options.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="checkpoints to write")
    run(options, train)
