"""Model outputs to unit vectors: image, text, and both, by score fusion or by the model itself (native)."""

import os
from collections.abc import Sequence
from mmap import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcl.common.arrays import Floats, read_array
from gcl.common.errors import UserError


def rows_of(array: Any, rows: NDArray[np.int64]) -> Floats:
    """Return some rows of an array; those of a mapped file are read from it, in runs.

    A scattered row of a mapping may bring megabytes of its file into the process.

    Raises:
        UserError: the file was cut since it was mapped, or holds NaN or infinity.
    """
    is_mapped = isinstance(array, np.memmap) and isinstance(array.base, mmap) and array.flags.c_contiguous
    if not is_mapped or not len(rows):
        return np.asarray(array[rows], np.float32)
    if rows.min() < 0 or rows.max() >= len(array):
        raise IndexError(f"{array.filename} has {len(array)} rows, asked for {rows.min()} to {rows.max()}")
    picked = np.empty((len(rows), array.shape[1]), np.float32)
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
    lengths = np.diff(starts, append=len(rows)) * array.strides[0]
    target = memoryview(picked.data).cast("B")
    at = (starts * array.strides[0]).tolist()
    with Path(array.filename).open("rb", buffering=0) as file:
        for start, length, place in zip(rows[starts].tolist(), lengths.tolist(), at, strict=True):
            offset = array.offset + start * array.strides[0]
            if os.preadv(file.fileno(), [target[place : place + length]], offset) != length:
                raise UserError(f"{array.filename} was cut while it was read; delete it and run `infer` again")
    if not np.isfinite(picked).all():
        raise UserError(f"{array.filename} holds NaN or infinity; delete it and run `infer` again")
    return picked


class Stacked:
    """Rows of several memory-mapped (n, D) arrays, one after the other or in a given order, as if in one array."""

    def __init__(self, parts: Sequence[Floats], order: NDArray[np.int64] | None = None) -> None:
        """Stack the parts; with an order, row i is the stack's row order[i]."""
        self.parts, self.order = parts, order
        self.starts = np.cumsum([0, *map(len, parts)])
        self.shape = (len(order) if order is not None else int(self.starts[-1]), parts[0].shape[1])

    def __len__(self) -> int:
        """Count the rows."""
        return self.shape[0]

    def __getitem__(self, index: Any) -> Floats:
        """Return the rows of an array of numbers or of a slice."""
        rows = np.arange(len(self))[index] if isinstance(index, slice) else np.asarray(index)
        rows = rows if self.order is None else self.order[rows]
        picked = np.empty((len(rows), self.shape[1]), np.float32)
        part_of = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(part_of):
            chosen = np.flatnonzero(part_of == number)
            picked[chosen] = rows_of(self.parts[number], rows[chosen] - self.starts[number])
        return picked


class Outputs(NamedTuple):
    """Raw outputs of a model for a prepared folder's distinct images, texts and, if native, their combinations."""

    image: Floats | Stacked  # (images, D)
    text: Floats | Stacked  # (texts, D)
    fused: Floats | Stacked | None = None  # (combinations, D), in the order of records.fused_keys
    in_turns: Floats | Stacked | None = None  # (items, D), in the order of in_turns.items_in_turns


def read_outputs(folders: Sequence[Path], shared: Path | None = None) -> Outputs:
    """Read what `infer` wrote in one folder or in several, which are parts of one whole.

    Args:
        folders: in order.
        shared: what `share` wrote, if the first folders are of other benchmarks: which rows of all are this one's.
    """

    def read(name: str) -> Floats | Stacked:
        parts = [read_array(folder / f"{name}.npy") for folder in folders]
        if shared is None and len(parts) == 1:
            return parts[0]
        if len(widths := {part.shape[1] for part in parts}) > 1:
            raise UserError(f"{name}.npy has widths {widths} in {', '.join(map(str, folders))}: are they one model's?")
        return Stacked(parts, None if shared is None else np.load(shared / f"{name}.npy", mmap_mode="r"))

    more = [read(name) if (folders[-1] / f"{name}.npy").exists() else None for name in ("image_text", "in_turns")]
    return Outputs(read("image"), read("text"), *more)
