"""Tower outputs to unit vectors: image, text, and both by score fusion."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def unit(vectors: Floats) -> Floats:
    """Scale rows of (..., D) to length 1; a row of zeros is a ValueError, since it has no direction."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.isfinite(length).all():
        raise ValueError("embeddings hold NaN or infinity")
    if (length == 0).any():
        raise ValueError("an embedding is all zeros")
    return (vectors / length).astype(np.float32)


def fuse(image: Floats | None, text: Floats | None, fusion: str) -> Floats:
    """Return unit vectors of items from their (n, D) tower outputs; one of the two may be absent.

    sum_raw adds the raw outputs and normalises once (UniIR); sum_unit gives both the same weight.
    """
    parts = [part for part in (image, text) if part is not None]
    if not parts:
        raise ValueError("an item has neither image nor text")
    if fusion == "sum_unit":
        parts = [unit(part) for part in parts]
    return unit(np.sum(parts, axis=0, dtype=np.float32))
