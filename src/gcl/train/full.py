"""Train the weights of a backbone, all or some of its layers, on images and texts: the paper's setting."""

import contextlib
import functools
import hashlib
import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gcl.common.arrays import read_array
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.common.progress import progress
from gcl.common.rows import to_json
from gcl.config.backbones import Backbone
from gcl.config.recipes import Recipe
from gcl.models import Built, family
from gcl.models.weights.checkpoints import read_start
from gcl.train.batches import Loader
from gcl.train.distributed import Rank, join, part_of
from gcl.train.grad_cache import StepSetting, accumulate
from gcl.train.optimizer import Curve, Steps
from gcl.train.recipe_loss import needs_fused, triplet

if TYPE_CHECKING:
    from gcl.train.train import Paths

log = logging.getLogger(__name__)

LARGEST_SCALE = math.log(100)  # of the logits, as CLIP's
FORMAT = 2  # of saved states


def train_all(
    name: str, backbone: Backbone, recipe: Recipe, seed: int, paths: "Paths", label: str
) -> tuple[Built, Curve]:
    """Train one seed; return the model and the curve. Under torchrun every process returns the same.

    Raises:
        UserError: fewer pairs than one batch, no such device or layer, an unreadable image, or a loss that
            is no longer finite.
    """
    rank = join(paths.device)
    torch.manual_seed(seed)
    built = family(backbone.family).build(backbone, paths.data)
    if paths.init is not None:
        read_start(built.model, paths.init / f"seed{seed}", name)
    if recipe.epochs == 0:
        return built, []
    if recipe.full.image_tokens and not hasattr(built.model, "set_image_tokens"):
        raise UserError(f"{label}: image_tokens is for family vista, not {backbone.family}, whose towers are apart")
    # Channels last: convolutions on a CPU are one and a half to three times as fast so.
    built.model.to(rank.device, memory_format=torch.channels_last).train()
    freeze_statistics(built.model)
    weights = chosen_weights(built.model, recipe, label)
    loader = Loader(paths.pairs, recipe, built, seed, part_of(rank, recipe.batch_size), paths.threads)
    steps = Steps(weights, recipe, loader.order.per_epoch, label)
    task = make_task(built, backbone, recipe, rank, paths, weights)
    state = State(paths.resume, seed, fingerprint(backbone, recipe, paths.pairs, seed))
    state.restore(built.model, steps, rank.device)
    log.info("%s: %d steps, loss of guessing about %.2f", label, steps.total, math.log(recipe.batch_size))
    run_steps(task, loader, steps, state, built.model, seed, paths.tensorboard if rank.number == 0 else None)
    built.model.cpu().eval()
    return built, steps.curve


def run_steps(
    task: StepSetting,
    loader: Loader,
    steps: Steps,
    state: "State",
    model: nn.Module,
    seed: int,
    tensorboard: Path | None,
) -> None:
    """Take the steps that are left, saving the state now and then."""
    recipe, done = steps.recipe, len(steps.curve)
    writer = open_tensorboard(tensorboard, seed, done)
    bar = progress(range(done, steps.total), steps.name, "step")
    for step, batch in zip(bar, loader.steps(done, steps.total), strict=True):
        if recipe.full.image_tokens:
            model.set_image_tokens(drawn(recipe.full.image_tokens, seed, step))  # type: ignore[operator]
        steps.begin()
        value, repeated = accumulate(task, batch, seed, step)
        norm = float(nn.utils.clip_grad_norm_(task.weights, recipe.full.clip_norm))
        scale = {} if task.scale is None else {"temperature": math.exp(-task.scale.item())}
        line = steps.end(value, repeated, **scale)
        if task.scale is not None:
            task.scale.data.clamp_(0, LARGEST_SCALE)
        if writer is not None:
            for key in ("loss", "learning_rate", "duplicates", *scale):
                writer.add_scalar(key, line[key], step)
            writer.add_scalar("gradient_norm", norm, step)
        if task.rank.number == 0 and ((step + 1) % recipe.full.save_every == 0 or step + 1 == steps.total):
            state.save(model, steps)
    if writer is not None:
        writer.close()


def drawn(choices: list[int], seed: int, step: int) -> int:
    """Draw the number of image tokens of a step, the same in every process and after a restart.

    A model that has seen several reads images at any of them (MME, arXiv 2502.12799: random N x N tokens).
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def make_task(
    built: Built, backbone: Backbone, recipe: Recipe, rank: Rank, paths: "Paths", weights: list[nn.Parameter]
) -> StepSetting:
    """Collect what every step needs."""
    full = recipe.full
    if full.grad_checkpointing:
        built.model.set_grad_checkpointing()  # type: ignore[operator]
    raw = torch.compile(built.encode) if full.compile else built.encode
    if backbone.fusion == "native" and not needs_fused(recipe.loss):
        raw = functools.partial(raw, fused=False)

    def encode(pixels: Tensor, ids: Tensor) -> Tensor:
        return triplet(raw(pixels, ids), backbone.fusion)

    def autocast() -> Any:
        if full.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(rank.device.type, torch.bfloat16)

    scale: Any = None
    if recipe.loss.temperature == "learned":
        scale = getattr(built.model, "logit_scale", None)
        if scale is None:
            raise UserError(f"family {backbone.family} has no logit scale to learn; give a temperature")
    sentences = None
    if paths.sentences is not None and recipe.loss.separation:
        sentences = normalize(torch.from_numpy(np.array(read_array(paths.sentences / "text.npy"))), dim=1)
    return StepSetting(encode, recipe.loss, weights, scale, full.chunk, rank, autocast, sentences, backbone.late)


def freeze_statistics(model: nn.Module) -> None:
    """Keep batch norm at the statistics of pretraining: those of a small batch are noise, and couple its rows."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def chosen_weights(model: nn.Module, recipe: Recipe, name: str) -> list[nn.Parameter]:
    """Freeze all weights but those that the recipe trains, and return these.

    Raises:
        UserError: a prefix that no weight's name has.
    """
    layers = recipe.trainable if isinstance(recipe.trainable, list) else [""]
    named = dict(model.named_parameters())
    for layer in layers:
        if not any(key.startswith(layer) for key in named):
            shown = sorted({".".join(key.split(".")[:2]) for key in named})
            raise UserError(f"{name}: trainable: no weight's name begins with '{layer}'; they begin with {shown}")
    for key, weight in named.items():
        weight.requires_grad_(any(key.startswith(layer) for layer in layers))
    if recipe.loss.temperature == "learned" and "logit_scale" in named and not named["logit_scale"].requires_grad:
        raise UserError(
            f"{name}: temperature: learned, but trainable: {layers} leaves out logit_scale, which would stay constant; "
            f"add it, or give a temperature"
        )
    if recipe.loss.temperature != "learned" and "logit_scale" in named:
        named["logit_scale"].requires_grad_(False)
    return [weight for weight in named.values() if weight.requires_grad]


def fingerprint(backbone: Backbone, recipe: Recipe, pairs: Path, seed: int) -> str:
    """Name a training by all that its result depends on, so that no other's state is taken up."""
    data = hashlib.sha256((pairs / "pairs.parquet").read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps([to_json(backbone), to_json(recipe), data, seed, FORMAT]).encode()).hexdigest()


class State:
    """A file from which a killed training goes on, to the same result."""

    def __init__(self, folder: Path | None, seed: int, name: str) -> None:
        """Take the folder of states; none: nothing is saved."""
        self.path, self.name = None if folder is None else folder / f"seed{seed}.pt", name

    def save(self, model: nn.Module, steps: Steps) -> None:
        """Write weights, optimizer and curve; random numbers depend on the step alone."""
        if self.path is None:
            return
        state = {
            "name": self.name,
            "model": model.state_dict(),
            "moments": [*steps.moments.values()],
            "curve": steps.curve,
        }
        with atomic_path(self.path) as temporary:
            torch.save(state, temporary)

    def restore(self, model: nn.Module, steps: Steps, device: torch.device) -> None:
        """Go on from the file, if there is one of this very training."""
        if self.path is None or not self.path.exists():
            return
        try:
            state = torch.load(self.path, map_location=device, weights_only=True)
        except Exception as error:  # a broken file is no reason to stop
            log.warning("can't read the saved state %s (%s): starting anew", self.path, error)
            return
        if state["name"] != self.name:
            log.warning("%s is the state of another recipe or other data: starting anew", self.path)
            return
        model.load_state_dict(state["model"])
        steps.restore(state["moments"], state["curve"])
        log.info("going on after step %d of %d", len(steps.curve), steps.total)


def open_tensorboard(folder: Path | None, seed: int, done: int) -> Any:
    """Open a writer of TensorBoard's files; what was written after the saved step is hidden."""
    if folder is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / f"seed{seed}"), purge_step=done)
