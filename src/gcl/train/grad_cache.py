"""The gradient of a whole batch on devices that hold a part of it, and of that a chunk at a time (GradCache).

1. Encode the rank's part chunk by chunk; keep the unit vectors, and no activations if there are several chunks.
2. Gather the vectors of all ranks, compute the loss of the rank's rows and its gradient at every vector, sum.
3. Encode each chunk again with the same random numbers, and go on with the gradient of its vectors.
4. Sum the weights' gradients over ranks.

The result is the gradient of one process that encodes the whole batch at once, up to rounding; dropout
included, since random numbers depend on the chunk's place in the batch alone.

Source: GradCache, arXiv 2101.06983.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gcl.config.recipes import Loss
from gcl.losses.gcl import duplicates
from gcl.train.batches import Batch
from gcl.train.distributed import Rank, gathered, summed
from gcl.train.recipe_loss import UnitVectors, joined, recipe_loss

Encode = Callable[[Tensor, Tensor], UnitVectors]  # pixels, ids -> unit vectors of b samples


class StepSetting(NamedTuple):
    """What stays the same from step to step."""

    encode: Encode
    loss: Loss
    weights: list[nn.Parameter]  # those that are trained
    scale: nn.Parameter | None  # the model's logit scale, log(1/t), if it is learned
    chunk: int | None  # pairs
    rank: Rank
    autocast: Callable[[], AbstractContextManager[None]]
    sentences: Tensor | None  # (T, S) unit features of all captions, for loss.separation
    late: int = 1  # vectors of an item


def seeded(seed: int, step: int, place: int) -> None:
    """Set the random numbers of the chunk that begins at `place` of the batch."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_000_003 + place)


def accumulate(task: StepSetting, batch: Batch, seed: int, step: int) -> tuple[float, int]:
    """Add the batch's gradient to the weights; return the loss and the number of duplicate pairs."""
    rank, size = task.rank, len(batch.pixels)
    first = rank.number * size
    width = min(task.chunk or size, size)
    chunks = [slice(i, min(i + width, size)) for i in range(0, size, width)]

    def encoded(chunk: slice) -> UnitVectors:
        seeded(seed, step, first + chunk.start)
        with task.autocast():
            return task.encode(batch.pixels[chunk].to(rank.device), batch.ids[chunk].to(rank.device))

    with torch.set_grad_enabled(len(chunks) == 1):
        units = joined([encoded(chunk) for chunk in chunks])
    value, at_units, repeated = loss_of(task, batch, units, slice(first, first + size))
    if len(chunks) == 1:
        units.backward(at_units)
    else:
        for chunk in chunks:
            encoded(chunk).backward(at_units.part(chunk))
    for weight in task.weights:  # ranks must agree on what is exchanged
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    summed([weight.grad for weight in task.weights if weight.grad is not None], rank)
    return value, repeated


def loss_of(task: StepSetting, batch: Batch, units: UnitVectors, rows: slice) -> tuple[float, UnitVectors, int]:
    """Return the loss of the whole batch, its gradient at this rank's vectors, and the number of duplicates."""
    rank = task.rank
    whole = UnitVectors(*(gathered(part.detach(), rank).requires_grad_() for part in units))
    same = duplicates(batch.image_ids.to(rank.device), batch.text_ids.to(rank.device))
    sentences = None if task.sentences is None else task.sentences[batch.text_ids].to(rank.device)
    temperature = task.loss.temperature
    loss = recipe_loss(
        whole,
        task.loss,
        (-task.scale).exp() if task.scale is not None else float(temperature),
        same,
        sentences,
        rows,
        task.late,
    )
    loss.backward()
    at_vectors, at_mix = (torch.zeros_like(part) if part.grad is None else part.grad for part in whole)
    value = loss.detach()[None].double()
    summed([at_vectors], rank)
    summed([at_mix, value], rank)
    return value.item(), UnitVectors(at_vectors, at_mix).part(rows), same.shape[1]
