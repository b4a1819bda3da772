"""Arrays and modalities: the few names that every room shares."""

import math
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.typing import NDArray

from gcl.common.errors import UserError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
MODALITIES = ("image", "text", "image_text")
SHORT = {"image": "i", "text": "t", "image_text": "it"}  # in names of tasks and of items
FUSIONS = ("sum_raw", "sum_unit", "native")


def norms(vectors: Floats) -> Floats:
    """Return the lengths of the rows of (..., D), as (..., 1).

    Raises:
        UserError: a row holds NaN or infinity, is so large that its length has no float32, or is zero: then it has no
            direction.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        length: Floats = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.isfinite(length).all():
        if np.isfinite(vectors).all():
            raise UserError(
                f"an embedding has an infinite norm: it holds {np.abs(vectors).max():g}, its square overflows"
            )
        raise UserError("embeddings hold NaN or infinity")
    if (length == 0).any():
        raise UserError("an embedding is all zeros")
    return length


def unit(vectors: Floats, late: int = 1) -> Floats:
    """Scale rows of (..., D) to length 1; rows that are `late` vectors, one after the other, each to the same length.

    Raises:
        UserError: as `norms`.
    """
    if late > 1:
        apart = vectors.reshape(*vectors.shape[:-1], late, -1)
        return (unit(apart) / np.float32(math.sqrt(late))).reshape(vectors.shape)
    return (vectors / norms(vectors)).astype(np.float32, copy=False)


def fuse(image: Floats | None, text: Floats | None, fusion: str, late: int = 1) -> Floats:
    """Return unit vectors of items from their (n, D) tower outputs; one of the two may be absent.

    sum_raw adds the raw outputs and normalises once (UniIR); sum_unit gives both the same weight. A native
    fusion has an output of its own for both: give it as either. `late` as of `unit`.

    Raises:
        UserError: neither is given, or as `norms`.
    """
    parts = [part for part in (image, text) if part is not None]
    if not parts:
        raise UserError("an item has neither image nor text")
    if fusion == "sum_unit":
        parts = [unit(part) for part in parts]
    return unit(sum(parts[1:], parts[0]).astype(np.float32, copy=False), late)


def read_array(path: Path) -> Floats:
    """Map an array that `infer` wrote; a missing or cut file is a ValueError that names it."""
    try:
        array: Floats = np.load(path, mmap_mode="r")
        if array.ndim != 2 or array.dtype != np.float32:
            raise UserError(f"{array.ndim} dimensions of {array.dtype}, expected rows of float32")
    except (OSError, ValueError, EOFError, SyntaxError, TokenError, TypeError, OverflowError) as error:
        raise UserError(f"can't read {path}: {error}; delete {path.parent} and run `infer` again") from error
    return array
