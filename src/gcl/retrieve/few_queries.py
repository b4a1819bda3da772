"""Exact search for one query or a few: a product in float32 as the memory delivers it, what is near in float64.

A float32 product of unit vectors of D numbers is off by at most (D + 2) 2^-24 / (1 - (D + 2) 2^-24), in whatever order
it is summed (Higham, Accuracy and Stability of Numerical Algorithms, 3.1, with Cauchy-Schwarz). So a candidate whose
float32 score lies further below the k-th best than twice that, times its factor, is not among the k best. What is left
is scored as gcl.retrieve.exact does it, whose slow search of everything the tests compare it with. It takes no torch,
whose import would be most of a single search.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcl.common.arrays import Floats, Ints
from gcl.common.errors import UserError
from gcl.retrieve.exact import NO_ROW, Pool, Query, kept

BLOCK = 1 << 15  # candidates that are read at a time
LENGTH = 1 + 1e-3  # at most, of a unit vector that is taken for one
SLACK = 2.0**-20  # relative, of a score: rounding of approximate scores to float32 and of exact ones


def bound(width: int) -> float:
    """Return how far a float32 product of vectors of length 1 and a given width may be off."""
    u = (width + 2) * 2.0**-24
    return LENGTH**2 * u / (1 - u)


def search_few(query: Query, pool: Pool, k: int) -> tuple[Floats, Ints]:
    """Return the k best of a pool for a few queries, in memory that does not grow with it.

    Args:
        query: Q queries, some.
        pool: read once, in order.
        k: 1 <= k; at most the size of the pool are returned.

    Returns:
        Scores (Q, min(k, C)), highest first, and rows of the pool (Q, min(k, C)); ties to the lower row.
    """
    k = min(k, pool.size)
    n, off = len(query.vectors), 2 * bound(query.vectors.shape[1])
    margin = off * query.factors + SLACK * (query.factors + np.abs(query.offsets))  # (Q, 3) of the modalities
    near = [Near(np.empty(0), np.empty(0, np.int64), -np.inf)] * n
    for start in range(0, pool.size, BLOCK):
        some = slice(start, min(start + BLOCK, pool.size))
        block, modalities = pool.vectors(some), pool.modalities[some]
        cosines = block @ query.vectors.T  # (B, Q) float32
        if np.isnan(cosines).any():
            raise UserError("scores hold NaN")
        for number in range(n):
            factors, offsets = query.factors[number, modalities], query.offsets[number, modalities]
            upper = cosines[:, number] * factors + (offsets + margin[number, modalities])
            rows = np.flatnonzero(upper >= near[number].least)
            if len(rows):
                near[number] = narrowed(near[number], upper[rows], rows + start, margin[number], pool.modalities, k)
    return exactly(query, pool, [own.rows for own in near], k)


class Near(NamedTuple):
    """What may be among the k best of a query so far."""

    upper: NDArray[np.float64]  # bounds of the scores from above
    rows: Ints
    least: float  # the k-th best bound from below, -inf of fewer


def narrowed(
    near: Near,
    upper: NDArray[np.float64],
    rows: Ints,
    margin: NDArray[np.float64],
    modalities: NDArray[np.int8],
    k: int,
) -> Near:
    """Add candidates, and drop those that can no longer be among the k best."""
    upper, rows = np.concatenate([near.upper, upper]), np.concatenate([near.rows, rows])
    if len(rows) < k:
        return Near(upper, rows, -np.inf)
    lower = upper - 2 * margin[modalities[rows]]
    least = float(np.partition(lower, len(lower) - k)[len(lower) - k])
    return Near(upper[upper >= least], rows[upper >= least], least)


def exactly(query: Query, pool: Pool, rows: list[Ints], k: int) -> tuple[Floats, Ints]:
    """Score the given rows of each query in float64 and return the k best."""
    scores, places = [], []
    for number, own in enumerate(rows):
        for start in range(0, len(own), BLOCK):
            some = own[start : start + BLOCK]
            scores.append(query.row(number).scores(pool.vectors(some), pool.modalities[some])[0])
            places.append(np.full(len(some), number))
    if not scores:
        return np.empty((len(rows), 0), np.float32), np.full((len(rows), 0), NO_ROW)
    return kept(np.concatenate(places), np.concatenate(scores), np.concatenate(rows), len(rows), k)
