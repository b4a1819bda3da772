"""A copy of a pool's vectors in 8 bits, kept beside them: a search of few queries reads a quarter of the bytes.

A candidate c is written as whole numbers of -127 to 127 times a scale of its own, c', and how far that has moved it,
e = |c - c'|. A query q is written likewise, q', for each search. For vectors of length 1, by Cauchy-Schwarz,

    |q . c - q' . c'|  <=  |q - q'| |c'| + |q| |c - c'|

so the whole numbers' product tells which candidates may be among the best; they are scored as gcl.retrieve.exact does.
The product is onnxruntime's, which has kernels of 8 bits for every processor and is imported by what embeds the query.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gcl.common.arrays import Floats
from gcl.common.devices import cores, in_threads
from gcl.common.errors import UserError
from gcl.common.files import atomic_path

BLOCK = 1 << 15  # candidates that stand together, as search reads them
CODES, FACTS = "codes.npy", "rounding.npy"
LARGEST = 127
AHEAD = 64  # blocks times queries whose products are made before they are looked at
ALONE = 3  # queries that are multiplied one by one: for more, onnxruntime rearranges the block, which takes as long
LENGTH = 1 + 1e-3  # at most, of a unit vector that is taken for one
SLACK = 2.0**-19  # of a cosine: what float32 rounds
# An ONNX model of one MatMulInteger: a (q, d) uint8, b (d, b) int8, found (q, b) int32. A plain install has no onnx.
PRODUCT = bytes.fromhex(
    "080a3a700a1c0a01610a01621205666f756e64220d4d61744d756c496e7465676572120770726f647563745a150a016112100a0e0802120a0a03"
    "1201710a031201645a150a016212100a0e0803120a0a031201640a0312016262190a05666f756e6412100a0e0806120a0a031201710a03120162"
    "42040a001014"
)


class Near(NamedTuple):
    """Cosines of queries with a block of candidates, and how far each may be off."""

    cosines: Floats  # (Q, B)
    of_query: Floats  # (Q,) how far a query has been moved
    of_candidate: Floats  # (B,) how far a candidate has

    def off(self, queries: Any, candidates: Any) -> Floats:
        """Return how far cosines are off at most, of rows and columns of them."""
        moved = self.of_candidate[candidates]
        bound: Floats = self.of_query[queries] * (LENGTH + moved) + LENGTH * moved
        return bound

    def most(self) -> Floats:
        """Return how far all of a query's are, (Q,)."""
        return self.off(slice(None), int(self.of_candidate.argmax()))


class Rounded(NamedTuple):
    """The copy: D + 12 bytes for a vector of D numbers."""

    codes: np.ndarray  # (blocks, D, BLOCK) int8; a column is a candidate, the last block's rest is 0
    facts: Floats  # (3, C): scale, error, sum of the codes

    def __len__(self) -> int:
        """Count the candidates."""
        return self.facts.shape[1]

    def blocks(self, queries: Floats) -> Iterator[Near]:
        """Return cosines of queries (Q, D) with every block, in order."""
        codes, scales, errors, zero = as_codes(queries)

        def near(start: int) -> Near:
            scale, error, total = self.facts[:, start : start + BLOCK]
            block, some = self.codes[start // BLOCK], [codes] if len(codes) > ALONE else np.split(codes, len(codes))
            products = np.concatenate([product().run(None, {"a": one, "b": block})[0] for one in some])[:, : len(scale)]
            products -= zero * total.astype(np.int32)
            cosines = products.astype(np.float32)
            cosines *= scale
            cosines *= scales
            return Near(cosines, errors, error)

        return in_threads(near, range(0, len(self), BLOCK), cores(), max(cores(), AHEAD // len(queries)))


def round_vectors(vectors: Floats) -> tuple[np.ndarray, Floats]:
    """Return the codes (n, D) int8 of vectors and (3, n) scale, error and sum.

    Raises:
        UserError: they hold NaN or infinity.
    """
    vectors = np.asarray(vectors, np.float32)
    largest = np.abs(vectors).max(1, initial=0)
    if not np.isfinite(largest).all():
        raise UserError("vectors hold NaN or infinity")
    scale = np.maximum(largest, np.float32(1e-30)) / np.float32(LARGEST)
    codes = np.rint(vectors / scale[:, None])
    moved = vectors - codes * scale[:, None]
    error = np.sqrt(np.einsum("nd,nd->n", moved, moved)) * np.float32(1 + 1e-3) + np.float32(SLACK)
    return codes.astype(np.int8), np.stack([scale, error, codes.sum(1)]).astype(np.float32)


def as_codes(queries: Floats) -> tuple[np.ndarray, Floats, Floats, int]:
    """Return queries as whole numbers above 0, scales (Q, 1), errors (Q,), and the number that stands for 0."""
    zero = 64 if saturates() else 128
    scale = np.abs(queries).max(1, keepdims=True) / np.float32(zero - 1)
    codes = np.rint(queries / scale)
    moved = queries - codes * scale
    error = np.sqrt((moved.astype(np.float64) ** 2).sum(1)) * (1 + 1e-4) + SLACK
    return (codes + zero).astype(np.uint8), scale, error.astype(np.float32), zero


@cache
def product() -> Any:
    """Return an onnxruntime session of (Q, D) uint8 times (D, B) int8."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # blocks are what threads share: a product is over before its own would be awake
    return onnxruntime.InferenceSession(PRODUCT, options, providers=["CPUExecutionProvider"])


@cache
def saturates() -> bool:
    """Tell whether sums of two products of 8 bits overflow here: on x86 without VNNI they are cut to 16 bits."""
    a, b = np.full((1, 64), 255, np.uint8), np.full((64, 32), 127, np.int8)
    return bool((product().run(None, {"a": a, "b": b})[0] != 64 * 255 * 127).any())


def rounded(vectors: Floats) -> Rounded:
    """Make the copy of a pool in memory.

    Args:
        vectors: (C, D) unit vectors, in memory or mapped.

    Returns:
        What `gcl.search(..., rounded=)` takes: for up to 64 queries at a time it reads this first, and of the vectors
        only what may be among the best.

    Raises:
        UserError: they are no (C, D), or hold NaN or infinity.

    Example:
        >>> import gcl, numpy as np
        >>> pool = np.eye(3, dtype=np.float32)
        >>> gcl.search(pool[[2]], pool, k=1, rounded=gcl.rounded(pool)).rows.tolist()
        [[2]]
    """
    if vectors.ndim != 2:
        raise UserError(f"vectors are {vectors.shape}, expected (C, D)")
    count, width = vectors.shape
    codes = np.zeros((-(-count // BLOCK), width, BLOCK), np.int8)
    facts = np.empty((3, count), np.float32)
    fill(codes, facts, vectors)
    return Rounded(codes, facts)


def fill(codes: np.ndarray, facts: Floats, vectors: Floats) -> None:
    """Write codes and facts of all vectors, a block at a time."""
    for start in range(0, len(vectors), BLOCK):
        some = slice(start, min(start + BLOCK, len(vectors)))
        block, facts[:, some] = round_vectors(vectors[some])
        codes[start // BLOCK, :, : len(block)] = block.T


def write_rounded(folder: Path, vectors: Floats) -> None:
    """Write the copy of a pool that is not empty into a folder, in memory that does not grow with it."""
    count, width = vectors.shape
    facts = np.empty((3, count), np.float32)
    with atomic_path(folder / CODES) as path:
        codes = np.lib.format.open_memmap(path, "w+", np.int8, (-(-count // BLOCK), width, BLOCK))
        fill(codes, facts, vectors)
        codes.flush()  # type: ignore[union-attr]
    with atomic_path(folder / FACTS) as path, path.open("wb") as file:
        np.save(file, facts)


def open_rounded(folder: Path) -> Rounded:
    """Map the copy that `write_rounded` made."""
    return Rounded(np.load(folder / CODES, mmap_mode="r"), np.load(folder / FACTS))
