"""Model outputs to unit vectors: image, text, and both, by score fusion or by the model itself (native)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Outputs(NamedTuple):
    """Raw outputs of a model for a prepared folder's distinct images, texts and, if native, their combinations."""

    image: Floats  # (images, D)
    text: Floats  # (texts, D)
    fused: Floats | None = None  # (combinations, D), in the order of records.fused_keys


def read_outputs(folder: Path) -> Outputs:
    """Read what `infer` wrote; a missing or cut file is a ValueError that names it."""

    def read(name: str) -> Floats:
        try:
            array: Floats = np.load(folder / name, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"can't read {folder / name}: {error}; delete {folder} and run `infer` again") from error
        return array

    fused = read("image_text.npy") if (folder / "image_text.npy").exists() else None
    return Outputs(read("image.npy"), read("text.npy"), fused)


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

    sum_raw adds the raw outputs and normalises once (UniIR); sum_unit gives both the same weight. A native
    fusion has an output of its own for both: give it as either.
    """
    parts = [part for part in (image, text) if part is not None]
    if not parts:
        raise ValueError("an item has neither image nor text")
    if fusion == "sum_unit":
        parts = [unit(part) for part in parts]
    return unit(np.sum(parts, axis=0, dtype=np.float32))
