"""The best candidates of every query, exactly: the same result whichever way is faster here.

For few queries that is a product in float32 as the memory delivers it, and what is near in float64. A float32 product
of unit vectors of D numbers is off by at most (D + 2) 2^-24 / (1 - (D + 2) 2^-24), in whatever order it is summed
(Higham, Accuracy and Stability of Numerical Algorithms, 3.1, with Cauchy-Schwarz). So a candidate whose float32 score
lies further below the k-th best than twice that, times its factor, is not among the k best. What is left is scored as
gcl.retrieve.exact does it, whose slow search of everything the tests compare it with. It takes no torch, whose import
would be most of a single search.
"""

import logging
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcl.common.arrays import Floats, Ints, norms
from gcl.common.devices import cores, in_threads
from gcl.common.errors import UserError
from gcl.retrieve.exact import Pool, Query, best_k, best_of_pool, scores_of
from gcl.retrieve.scan.rounded import AHEAD, BLOCK, LENGTH, Near, Rounded

log = logging.getLogger(__name__)

FEWEST = 5  # queries that are multiplied with one candidate at a time
FEW = 8  # queries that are searched by a pass in float32, or over the copy in 8 bits, even if torch is at hand
SOME = 64  # queries that are searched by such a pass before torch is imported
PARTS = 8  # of a block, each of which a thread takes
ALONE = 1 << 18  # numbers of a product, candidates times queries times width, that a BLAS does not divide among threads
PIECE = 512  # candidates that more queries are multiplied with at a time
QUERIES = 1024  # that are scored at a time
WORTH_A_SCAN = 1_000_000  # scores; below, a plain search of everything is as quick
WORTH_AN_IMPORT = 12_000_000  # scores; below, such a search is done before torch is imported
FAR_FROM_ONE = 1e-3  # of a unit vector's length
SLACK = 2.0**-20  # relative, of a score: rounding of approximate scores to float32 and of exact ones


class Hits(NamedTuple):
    """The best candidates of each query."""

    scores: Floats  # (Q, k), highest first
    rows: Ints  # (Q, k) into the candidates


def search(
    queries: Floats,
    candidates: Floats,
    k: int = 10,
    device: str = "auto",
    late: int = 1,
    rounded: Rounded | None = None,
) -> Hits:
    """Find the k candidates of highest cosine for every query, exactly; ties go to the lower row.

    Args:
        queries: (Q, D) unit vectors.
        candidates: (C, D) unit vectors, in memory or a memory-mapped file of float32, which is read in blocks.
        k: 1 <= k; at most C are returned.
        device: auto, cpu or cuda: where a large pool is scanned. Without torch it is searched plainly, and slower.
        late: vectors that an item is, one after the other, compared by maxsim: of a model whose `late` is above 1.
            Everything is compared then, on the CPU.
        rounded: what `gcl.rounded` made of the candidates, for a pool that is asked a few queries often.

    Returns:
        Hits: scores (Q, min(k, C)) in [-1, 1] and rows (Q, min(k, C)).

    Raises:
        UserError: widths that differ, vectors that are not of length 1, k below 1, or no GPU where one is asked for.

    Source: the score is the product in float64, rounded to float32, as the stage `retrieve` has it.

    Example:
        >>> import gcl, numpy as np
        >>> candidates = np.eye(3, dtype=np.float32)
        >>> hits = gcl.search(candidates[[2]], candidates, k=2)
        >>> hits.rows.tolist(), hits.scores.tolist()
        ([[2, 0]], [[1.0, 0.0]])
    """
    queries = np.asarray(queries, np.float32)
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1]:
        raise UserError(f"queries are {queries.shape}, candidates {candidates.shape}: expected (Q, D) and (C, D)")
    if k < 1:
        raise UserError(f"k is {k}, expected 1 or more")
    if late < 1 or queries.shape[1] % late:
        raise UserError(f"late is {late}, expected a number that divides the width {queries.shape[1]}")
    if not len(queries) or not len(candidates):
        width = min(k, len(candidates))
        return Hits(np.empty((len(queries), width), np.float32), np.empty((len(queries), width), np.int64))
    for name, vectors in (("queries", queries), ("candidates", np.asarray(candidates[:QUERIES], np.float32))):
        if (far := float(np.abs(norms(vectors) - 1).max())) > FAR_FROM_ONE:
            raise UserError(f"{name} are no unit vectors: a length is off by {far:.3g}; divide each by its length")
    ones, zeros = np.ones((len(queries), 3)), np.zeros((len(queries), 3))
    parts = [slice(start, start + QUERIES) for start in range(0, len(queries), QUERIES)]

    def vectors_of(rows: slice | Ints) -> Floats:
        return np.require(candidates[rows], np.float32, "W")  # torch wants memory that may be written to

    if rounded is not None and (made_of := (len(rounded), rounded.codes.shape[1])) != candidates.shape:
        raise UserError(f"rounded was made of vectors {made_of}, candidates are {candidates.shape}: give the same")
    pool = Pool(len(candidates), vectors_of, np.zeros(len(candidates), np.int8), rounded)
    return Hits(*best_rows([Query(queries[part], ones[part], zeros[part], late) for part in parts], pool, k, device))


def best_rows(queries: list[Query], pool: Pool, k: int, device: str) -> tuple[Floats, Ints]:
    """Return scores and rows (Q, min(k, C)) of the k best of a pool: for few queries, of a small pool, or by a scan."""
    if any(query.late > 1 for query in queries):  # no bound of its products prunes
        return best_of_pool(queries, pool, k)
    n, is_imported = sum(len(query.vectors) for query in queries), "torch" in sys.modules
    if pool.size * n < WORTH_A_SCAN and n > FEW:
        return best_of_pool(queries, pool, k)
    if 0 < n <= (FEW if is_imported else SOME) and len(queries) == 1 and device != "cuda":
        return search_few(queries[0], pool, k)
    if pool.size * n < (WORTH_A_SCAN if is_imported else WORTH_AN_IMPORT):
        return best_of_pool(queries, pool, k)
    if find_spec("torch") is None:
        log.warning(
            "torch is not installed: a pool of %d is searched plainly; `gcl-retrieval[train]` has it", pool.size
        )
        return best_of_pool(queries, pool, k)
    from gcl.common.torch_device import choose_device
    from gcl.retrieve.scan import pruned

    return pruned.scan_pool(queries, pool, k, choose_device(device))


def bound(width: int) -> float:
    """Return how far a float32 product of vectors of length 1 and a given width may be off."""
    u = (width + 2) * 2.0**-24
    return LENGTH**2 * u / (1 - u)


def products(block: Floats, vectors: Floats) -> Floats:
    """Return (Q, B) products of (B, D) candidates with a few (Q, D) queries; each candidate is read from memory once.

    The fewest meet a candidate one after the other while it is in the first-level cache, which keeps up with memory.
    More are multiplied with a piece of the block, of up to FEW so small that a BLAS takes one thread for it. All of the
    block is one call, since threads that return to Python wait for each other.
    """
    if len(vectors) <= FEWEST:
        return np.ascontiguousarray(np.vecdot(block[:, None], vectors).T)
    piece = max(1, ALONE // vectors.size) if len(vectors) <= FEW else PIECE
    whole = len(block) // piece * piece
    output = np.empty((len(block), len(vectors)), np.float32)
    np.matmul(
        block[:whole].reshape(-1, piece, block.shape[1]), vectors.T, out=output[:whole].reshape(-1, piece, len(vectors))
    )
    np.matmul(block[whole:], vectors.T, out=output[whole:])
    return np.ascontiguousarray(output.T)


def search_few(query: Query, pool: Pool, k: int) -> tuple[Floats, Ints]:
    """Return the k best of a pool for a few queries, in memory that does not grow with it.

    Args:
        query: Q queries, some.
        pool: read once, in order, or in its place the copy in 8 bits that it has.
        k: 1 <= k; at most the size of the pool are returned.

    Returns:
        Scores (Q, min(k, C)), highest first, and rows of the pool (Q, min(k, C)); ties to the lower row.
    """
    k, n = min(k, pool.size), len(query.vectors)
    best = [Best(np.empty(0), np.empty(0), np.empty(0, np.int64), -np.inf)] * n
    slack = SLACK * (query.factors + np.abs(query.offsets))  # (Q, 3) of the modalities
    blocks = plain_blocks(query, pool) if pool.rounded is None else pool.rounded.blocks(query.vectors)
    for start, near in zip(range(0, pool.size, BLOCK), blocks, strict=True):
        if np.isnan(near.cosines.max()):  # is NaN if any is
            raise UserError("scores hold NaN")
        modalities = pool.modalities[start : start + BLOCK]
        least = np.array([own.least for own in best])[:, None]
        queries, columns = hits_of(near, (least - slack - query.offsets) / query.factors, modalities)
        of = modalities[columns]
        middle = near.cosines[queries, columns] * query.factors[queries, of] + query.offsets[queries, of]
        reach = near.off(queries, columns) * query.factors[queries, of] + slack[queries, of]
        ends = np.searchsorted(queries, np.arange(n + 1))
        for number, (first, last) in enumerate(pairwise(ends.tolist())):
            if first < last:
                some = slice(first, last)
                more = middle[some] + reach[some], middle[some] - reach[some], columns[some] + start
                best[number] = narrowed(best[number], *more, k)
    rows, numbers = np.concatenate([own.rows for own in best]), np.repeat(range(n), [len(own.rows) for own in best])
    return best_k(numbers, scores_of(query, numbers, rows, pool, cores()), rows, n, k)


def plain_blocks(query: Query, pool: Pool) -> Iterator[Near]:
    """Yield cosines in float32 of every block; threads take parts of it, if a BLAS does not divide them itself."""
    count, width = query.vectors.shape
    off, size = np.full(count, bound(width), np.float32), BLOCK // PARTS

    def part(start: int) -> Floats:
        return products(pool.vectors(slice(start, min(start + size, pool.size))), query.vectors)

    threads, ahead = cores() if count <= FEW else 1, PARTS * max(1, AHEAD // count)
    computed = in_threads(part, range(0, pool.size, size), threads, ahead)
    while parts := [*islice(computed, PARTS)]:
        cosines = np.concatenate(parts, 1)
        yield Near(cosines, off, np.zeros(cosines.shape[1], np.float32))


def hits_of(near: Near, needed: NDArray[np.float64], modalities: NDArray[np.int8]) -> tuple[Ints, Ints]:
    """Return queries and columns of the cosines that may be as high as is needed, (Q, 3) of the modalities."""
    # No cosine is beyond 2; one part in a million covers the rounding of these lines to float32.
    cut = (np.clip(needed, -2, 2) - near.most()[:, None] - 1e-6).astype(np.float32)
    is_one = bool((modalities == modalities[0]).all())
    places = np.flatnonzero(near.cosines >= (cut[:, modalities[:1]] if is_one else cut[:, modalities]))
    return np.divmod(places, near.cosines.shape[1])  # a tenth of the time of nonzero() in two dimensions


class Best(NamedTuple):
    """What may be among the k best of a query so far."""

    upper: NDArray[np.float64]  # bounds of the scores from above
    lower: NDArray[np.float64]  # and from below
    rows: Ints
    least: float  # the k-th best bound from below, -inf of fewer


def narrowed(best: Best, upper: NDArray[np.float64], lower: NDArray[np.float64], rows: Ints, k: int) -> Best:
    """Add candidates, and drop those that can no longer be among the k best."""
    upper, lower = np.concatenate([best.upper, upper]), np.concatenate([best.lower, lower])
    rows = np.concatenate([best.rows, rows])
    if len(rows) < k:
        return Best(upper, lower, rows, -np.inf)
    least = float(np.partition(lower, len(lower) - k)[len(lower) - k])
    alive = upper >= least
    return Best(upper[alive], lower[alive], rows[alive], least)
