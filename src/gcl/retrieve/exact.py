"""Exact rankings of arrays: the k best of a pool that is read in blocks, ties to the lower row.

A score is q . c in float64 times a factor plus an offset, rounded to float32: so it does not depend on how a pool is
cut into blocks, on the library that multiplies or on the machine.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcl.common.arrays import Floats, Ints
from gcl.common.devices import in_threads
from gcl.common.errors import UserError
from gcl.retrieve.scan.rounded import Rounded

BLOCK = 4096  # candidates that are scored at a time
PAIRS = 2048  # of query and candidate, whose vectors are read together
PIECE = 128  # of them that are float64 at a time; more overflow the second-level cache
NO_ROW = 2**32 - 1  # of what a query lacks; above every row


def maxsim(queries: NDArray[np.float64], candidates: NDArray[np.float64], late: int) -> NDArray[np.float64]:
    """Return (Q, C): for each of a query's `late` vectors the highest product with one of a candidate's, added up.

    With one vector an item that is the product. Items are (Q, late * D) and (C, late * D) of length 1 as a whole, so
    the result is at most 1: the mean of cosines.

    Source: ColBERT, arXiv 2004.12832, eq. 3; of a fixed number of vectors in ReT, arXiv 2503.01980.
    """
    apart = [np.split(items, late, 1) for items in (queries, candidates)]
    total = np.zeros((len(queries), len(candidates)))
    for query in apart[0]:
        best = query @ apart[1][0].T
        for candidate in apart[1][1:]:
            np.maximum(best, query @ candidate.T, out=best)
        total += best
    return total


class Query(NamedTuple):
    """Some queries, and what makes scores of cosines."""

    vectors: Floats  # (Q, D) float32 unit vectors
    factors: NDArray[np.float64]  # (Q, 3) by the candidate's modality, above 0
    offsets: NDArray[np.float64]  # (Q, 3)
    late: int = 1  # vectors that each is, one after the other; more than one are compared by maxsim

    def scores(self, candidates: Floats, modalities: Ints | NDArray[np.int8]) -> Floats:
        """Return (Q, C) float32 scores of (C, D) unit vectors of the given modalities (C,)."""
        cosines = maxsim(self.vectors.astype(np.float64), candidates.astype(np.float64), self.late)
        return (cosines * self.factors[:, modalities] + self.offsets[:, modalities]).astype(np.float32)

    def row(self, number: int) -> "Query":
        """Return one of them."""
        some = slice(number, number + 1)
        return self._replace(vectors=self.vectors[some], factors=self.factors[some], offsets=self.offsets[some])


class Pool(NamedTuple):
    """Distinct candidates that are searched together."""

    size: int  # C
    vectors: Callable[[slice | Ints], Floats]  # rows -> (rows, D) float32 unit vectors
    modalities: NDArray[np.int8]  # (C,) into MODALITIES
    rounded: Rounded | None = None  # a copy of all vectors in 8 bits, for few queries


def scores_of(query: Query, queries: Ints, rows: Ints, pool: Pool, threads: int) -> Floats:
    """Return the scores of some queries, by number, with some rows of a pool: (n,) each, sorted by query."""
    vectors = query.vectors.astype(np.float64)

    def cosines(start: int) -> NDArray[np.float64]:
        own, candidates = queries[start : start + PAIRS], pool.vectors(rows[start : start + PAIRS])
        products, last = np.empty(len(own)), 1 + np.flatnonzero(np.diff(own, append=-1))
        for first, end in pairwise([0, *last.tolist()]):
            for begin in range(first, end, PIECE):
                some = slice(begin, min(begin + PIECE, end))
                np.dot(candidates[some].astype(np.float64), vectors[own[first]], out=products[some])
        return products

    products = np.concatenate(
        [np.empty(0), *in_threads(cosines, range(0, len(rows), PAIRS), threads, max(1, len(rows)))]
    )
    modalities = pool.modalities[rows]
    return (products * query.factors[queries, modalities] + query.offsets[queries, modalities]).astype(np.float32)


def top_k(scores: Floats, k: int) -> tuple[Floats, Ints]:
    """Return the k best of each row of (Q, C) scores, ties to the lower column, exactly.

    Args:
        scores: (Q, C), no NaN.
        k: 1 <= k; at most C are returned.

    Returns:
        Scores (Q, min(k, C)), highest first, and columns (Q, min(k, C)).

    Raises:
        UserError: k < 1, or a NaN.
    """
    if k < 1:
        raise UserError(f"k is {k}, expected 1 or more")
    if np.isnan(scores).any():
        raise UserError("scores hold NaN")
    k = min(k, scores.shape[1])
    kth = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k]  # (Q,)
    queries, columns = np.nonzero(scores >= kth[:, None])
    return best_k(queries, scores[queries, columns], columns, len(scores), k)


def to_keys(scores: Floats, rows: Ints) -> Ints:
    """Return whole numbers in whose order the best come first, ties to the lower row: sorted without a permutation.

    The bits of a float32, those below its sign turned where it is negative, are a whole number in the same order.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # no zero is negative
    ascending = bits ^ (bits >> 31 & 0x7FFFFFFF)
    return (~ascending).astype(np.int64) << 32 | rows


def from_keys(keys: Ints) -> tuple[Floats, Ints]:
    """Return the scores and rows that keys were made of."""
    ascending = ~(keys >> 32).astype(np.int32)
    return (ascending ^ (ascending >> 31 & 0x7FFFFFFF)).view(np.float32), keys & NO_ROW


def best_k(queries: Ints, scores: Floats, rows: Ints, n: int, k: int) -> tuple[Floats, Ints]:
    """Return the k best of each of n queries, (n, k), from any number of (query, score, row) sorted by query.

    Ties go to the lower row. What a query lacks is -inf and NO_ROW.
    """
    keys = to_keys(scores, rows)
    best = np.tile(to_keys(np.full(1, -np.inf, np.float32), np.array([NO_ROW])), (n, k))
    starts = np.searchsorted(queries, np.arange(n + 1))
    for own, start, stop in zip(best, starts, starts[1:], strict=False):
        first = np.sort(keys[start:stop])[:k]
        own[: len(first)] = first
    return from_keys(best)


def merged(best: Floats, rows: Ints, more: Floats, more_rows: Ints, k: int) -> tuple[Floats, Ints]:
    """Merge two rankings of disjoint candidates, (Q, a) and (Q, b)."""
    keys = np.concatenate([to_keys(best, rows), to_keys(more, more_rows)], 1)
    keys.sort(axis=1)
    return from_keys(keys[:, :k])


def best_of_pool(queries: list[Query], pool: Pool, k: int) -> tuple[Floats, Ints]:
    """Return the k best of a pool, whatever its size, in memory that does not grow with it.

    Args:
        queries: parts of them.
        pool: read once, in order.
        k: 1 <= k; at most the size of the pool are returned.

    Returns:
        Scores (Q, min(k, C)), highest first, and rows of the pool (Q, min(k, C)); ties to the lower row.
    """
    k = min(k, pool.size)
    state = [(np.empty((len(q.vectors), 0), np.float32), np.empty((len(q.vectors), 0), np.int64)) for q in queries]
    for start in range(0, pool.size, BLOCK):
        some = slice(start, min(start + BLOCK, pool.size))
        block, modalities = pool.vectors(some), pool.modalities[some]
        for number, query in enumerate(queries):
            more, columns = top_k(query.scores(block, modalities), k)
            state[number] = merged(*state[number], more, columns + start, k)
    return np.concatenate([s for s, _ in state]), np.concatenate([r for _, r in state])


class Members(NamedTuple):
    """The rows of each group of rows, one group after the other."""

    rows: Ints  # (n,) ascending within a group
    starts: Ints  # (groups + 1,) into rows

    def of(self, group: int) -> Ints:
        """Return the rows of a group."""
        return self.rows[self.starts[group] : self.starts[group + 1]]


def expanded(best: Floats, groups: Ints, members: Members, k: int) -> tuple[list[Floats], list[Ints]]:
    """Turn rankings of distinct items into rankings of items, ties to the lower row.

    Groups are numbered by their first members, so the k best groups hold the k best items.

    Args:
        best: (Q, k) scores of groups, highest first.
        groups: (Q, k) which group each is.
        members: the rows of the pool in each group.
        k: how many items to keep.

    Returns:
        Scores and rows per query.
    """
    if len(members.rows) == len(members.starts) - 1:  # one member each
        return list(best[:, :k]), list(members.rows[groups[:, :k]])
    starts = members.starts[groups].ravel()
    counts = np.minimum(members.starts[groups + 1].ravel() - starts, k)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = members.rows[np.repeat(starts, counts) + within]
    queries = np.repeat(np.arange(len(best)), counts.reshape(groups.shape).sum(1))
    scores, items = best_k(queries, np.repeat(best.ravel(), counts), rows, len(best), min(k, len(members.rows)))
    return list(scores), list(items)


def members_of(rows: Ints, groups: int) -> Members:
    """Return the rows of each group, given each row's group."""
    if groups == len(rows):  # each is a group of its own
        return Members(np.argsort(rows), np.arange(groups + 1))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=groups))])
    return Members(np.argsort(rows, kind="stable"), starts)


def rank_list(query: Query, candidates: Floats, modalities: Ints, places: Ints, k: int) -> tuple[Floats, Ints]:
    """Rank a query's own list, ties to the earlier.

    Args:
        query: one query.
        candidates: (U, D) distinct unit vectors of the list.
        modalities: (U,) of them.
        places: (L,) which of them each candidate of the list is.
        k: at most the length of the list are returned.

    Returns:
        Scores (k,), highest first, and places in the list (k,).
    """
    best, columns = top_k(query.scores(candidates, modalities)[:, places], k)
    return best[0], columns[0]
