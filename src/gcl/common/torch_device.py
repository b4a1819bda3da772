"""The torch device that a process computes on."""

import os

import torch

from gcl.common.devices import NO_CUDA
from gcl.common.errors import UserError


def choose_device(name: str) -> torch.device:
    """Turn auto, cuda or cpu into a device; cuda without a GPU is an error."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(NO_CUDA)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name, int(os.environ.get("LOCAL_RANK", "0"))) if name == "cuda" else torch.device(name)
