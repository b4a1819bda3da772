"""Arrays and modalities: the few names that every room shares."""

import numpy as np
from numpy.typing import NDArray

from gcl.common.errors import UserError

Floats = NDArray[np.float32]


FUSIONS = ("sum_raw", "sum_unit", "native")


def unit(vectors: Floats) -> Floats:
    """Scale rows of (..., D) to length 1; a row of zeros is a ValueError, since it has no direction."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.isfinite(length).all():
        raise UserError("embeddings hold NaN or infinity")
    if (length == 0).any():
        raise UserError("an embedding is all zeros")
    return (vectors / length).astype(np.float32, copy=False)


def fuse(image: Floats | None, text: Floats | None, fusion: str) -> Floats:
    """Return unit vectors of items from their (n, D) tower outputs; one of the two may be absent.

    sum_raw adds the raw outputs and normalises once (UniIR); sum_unit gives both the same weight. A native
    fusion has an output of its own for both: give it as either.
    """
    parts = [part for part in (image, text) if part is not None]
    if not parts:
        raise UserError("an item has neither image nor text")
    if fusion == "sum_unit":
        parts = [unit(part) for part in parts]
    return unit(sum(parts[1:], parts[0]).astype(np.float32, copy=False))


Ints = NDArray[np.int64]


MODALITIES = ("image", "text", "image_text")
