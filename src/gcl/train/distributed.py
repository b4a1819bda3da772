"""One process per device, started by torchrun: who am I, and sums over all."""

import os
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from gcl.common.errors import UserError
from gcl.common.torch_device import choose_device


class Rank(NamedTuple):
    """This process among `world`."""

    number: int
    world: int
    device: torch.device


def join(device_name: str) -> Rank:
    """Join the group that torchrun made, if it did."""
    device = choose_device(device_name)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Rank(int(os.environ.get("RANK", "0")), world, device)


def part_of(rank: Rank, batch: int) -> slice:
    """Return this rank's part of a batch.

    Raises:
        UserError: the batch can't be divided evenly.
    """
    if batch % rank.world:
        raise UserError(f"batch_size {batch} can't be shared evenly by {rank.world} processes")
    share = batch // rank.world
    return slice(rank.number * share, (rank.number + 1) * share)


def gathered(part: Tensor, rank: Rank) -> Tensor:
    """Return (V, N, ...) of every rank's (V, b, ...), without autograd: gradients are exchanged explicitly."""
    if rank.world == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(rank.world)]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts, dim=1)


def summed(tensors: list[Tensor], rank: Rank) -> None:
    """Replace tensors by their sums over ranks, in one exchange."""
    if rank.world == 1 or not tensors:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
