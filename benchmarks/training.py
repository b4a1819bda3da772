"""A step of full training: GCL and CL by this project, CL by open_clip's own loss and step, and where the time goes.

    python benchmarks/training.py [--batch 32] [--model ViT-B-32-quickgelu]

Random weights and photo-sized JPEGs; all take the batches of the same loader, decoded ahead in threads.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from open_clip import create_model
from open_clip.loss import ClipLoss
from safetensors.torch import save_file

from embedding import write_images
from gcl.config.backbones import Backbone
from gcl.config.recipes import Full, Loss, Recipe
from gcl.data.records import Pair, write_pairs
from gcl.models import family
from gcl.train import grad_cache as gradients
from gcl.train.batches import Batch, Loader
from gcl.train.distributed import Rank
from gcl.train.full import chosen_weights, make_task
from gcl.train.optimizer import Steps
from gcl.train.train import Paths
from loss import SIX
from measure import Times, arguments, in_turns, options, synchronize, table, write

CL = {"image>text": 1.0, "text>image": 1.0}
SIZE = (640, 480)


def recipe(directions: dict[str, float], denominator: str, batch: int, precision: str) -> Recipe:
    """Return a recipe of full training."""
    loss = Loss(directions=directions, denominator=denominator, temperature="learned")
    full = Full(precision=precision, crop=0.9)
    return Recipe(loss=loss, trainable="all", epochs=10**6, batch_size=batch, learning_rate=1e-5, flip=False, full=full)


class Ours:
    """Steps of this project."""

    def __init__(self, row: Backbone, plan: Recipe, data: Path, pairs: Path) -> None:
        self.built = family("clip").build(row, data)
        device = torch.device(options.device)
        self.built.model.to(device).train()
        weights = chosen_weights(self.built.model, plan, "model")
        paths = Paths(pairs, data, None, None, None, None, None, options.device, torch.get_num_threads())
        self.loader = Loader(pairs, plan, self.built, 0, slice(0, plan.batch_size), paths.threads)
        self.steps = Steps(weights, plan, self.loader.order.per_epoch, "model")
        self.task = make_task(self.built, row, plan, Rank(0, 1, device), paths, weights)

    def batches(self) -> Iterator[Batch]:
        """Yield batches without end."""
        return self.loader.steps(0, 10**6)

    def step(self, batch: Batch) -> None:
        """Take a step as train_all does."""
        self.steps.begin()
        value, repeated = gradients.accumulate(self.task, batch, 0, len(self.steps.curve))
        torch.nn.utils.clip_grad_norm_(self.task.weights, self.steps.recipe.full.clip_norm)
        self.steps.end(value, repeated)


def open_clip_step(model: torch.nn.Module, precision: str) -> Callable[[Batch], None]:
    """Return the step of open_clip's trainer: forward, ClipLoss, backward, clipping, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    loss = ClipLoss()

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        with torch.autocast(options.device, torch.bfloat16, enabled=precision == "amp_bf16"):
            image, text, scale = model(batch.pixels.to(options.device), batch.ids.to(options.device))
            value = loss(image, text, scale)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def parts_of(ours: Ours, stream: Iterator[Batch], repeats: int) -> list[list[str]]:
    """Return where the time of a step goes, with data as it comes."""
    spent: dict[str, list[float]] = {}

    wait = synchronize()

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **more: Any) -> Any:
            started = time.perf_counter()
            result = work(*given, **more)
            wait()
            spent.setdefault(name, []).append(time.perf_counter() - started)
            return result

        return run

    plain, plain_loss = ours.task, gradients.loss_of
    ours.task = plain._replace(encode=timed("encode", plain.encode))
    gradients.loss_of = timed("loss, value and gradient", plain_loss)
    following, step = timed("wait for data", lambda: next(stream)), timed("step", ours.step)
    for _ in range(repeats):
        step(following())
    ours.task, gradients.loss_of = plain, plain_loss
    whole = [sum(times) for times in zip(spent["wait for data"], spent["step"], strict=True)]
    known = ("wait for data", "encode", "loss, value and gradient")
    rest = [total - sum(spent[name][k] for name in known) for k, total in enumerate(whole)]
    shown = {name: Times(spent[name]) for name in known} | {"backward, clipping and optimizer": Times(rest)}
    middle = Times(whole).median
    return [[name, result.shown(), f"{result.median / middle:.1%}"] for name, result in shown.items()]


def compared(
    row: Backbone, data: Path, pairs: Path, given: Any, precision: str, values: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the tables of one precision."""
    cl = Ours(row, recipe(CL, "target_only", given.batch, precision), data, pairs)
    gcl = Ours(row, recipe(SIX, "no_self", given.batch, precision), data, pairs)
    peer = open_clip_step(create_model(given.model).to(options.device).train(), precision)
    stream = gcl.batches()
    batch = next(stream)
    works = {"open_clip CL": lambda: peer(batch), "CL": lambda: cl.step(batch), "GCL": lambda: gcl.step(batch)}
    times = in_turns(works, given.repeats)
    values[precision] = {n: t.seconds for n, t in times.items()}
    base = times["open_clip CL"]
    rows = [[n, t.shown(), f"{given.batch / t.median:.1f}", t.over(base)] for n, t in times.items()]
    columns = ["step", "time", "pairs/s", "times open_clip's"]
    parts = parts_of(gcl, stream, given.repeats)
    return [
        table(f"{given.model}, batch of {given.batch}, {precision}", columns, rows),
        table(f"Where a GCL step's time goes, {precision}", ["part", "time", "share"], parts),
    ]


def main() -> None:
    """Run from the command line."""
    given = arguments(__doc__, repeats=5, batch=32, images=128, model="ViT-B-32-quickgelu")
    tables, values = [], {}
    with tempfile.TemporaryDirectory() as name:
        data, pairs = Path(name), Path(name) / "pairs"
        torch.manual_seed(0)
        save_file(create_model(given.model).state_dict(), data / "weights.safetensors")
        row = Backbone(family="clip", model=given.model, weights={"model": "weights.safetensors"}, fusion="sum_raw")
        images = write_images(data / "images", given.images, SIZE)
        pairs.mkdir()
        all_pairs = [Pair(path, path, (f"caption of picture {k}",)) for k, path in enumerate(images)]
        write_pairs(pairs, all_pairs, {path: path for path in images})
        for precision in ("fp32", "amp_bf16"):
            tables += compared(row, data, pairs, given, precision, values)
    write("training", "Training", tables, values=values)


if __name__ == "__main__":
    main()
