"""Exact rankings of arrays: the k best of a pool that is read in blocks, ties to the lower row."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from gcl.fusion import Floats
from gcl.records import Ints

QUERIES = 1024  # that are scored at a time


def top_k(scores: Floats, k: int) -> tuple[Floats, Ints]:
    """Return the k best of each row of (Q, C) scores, ties to the lower column, exactly.

    Args:
        scores: (Q, C), no NaN.
        k: 1 <= k; at most C are returned.

    Returns:
        Scores (Q, min(k, C)), highest first, and columns (Q, min(k, C)).

    Raises:
        ValueError: k < 1, or a NaN.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected 1 or more")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    k = min(k, scores.shape[1])
    kth = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k]  # (Q,)
    best, columns = np.empty((len(scores), k), scores.dtype), np.empty((len(scores), k), np.int64)
    for i, row in enumerate(scores):
        found = np.flatnonzero(row >= kth[i])  # ascending, so a stable sort leaves ties in column order
        found = found[np.argsort(-row[found], kind="stable")][:k]
        best[i], columns[i] = row[found], found
    return best, columns


def merged(best: Floats, columns: Ints, more: Floats, more_columns: Ints, k: int) -> tuple[Floats, Ints]:
    """Merge two rankings of disjoint candidates, (Q, a) and (Q, b); all columns of the second are higher."""
    scores, found = np.concatenate([best, more], 1), np.concatenate([columns, more_columns], 1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)


def best_of_blocks(
    queries: Floats, blocks: Iterable[tuple[int, Floats, Floats, Floats]], k: int
) -> tuple[Floats, Ints]:
    """Return the k best of a pool, whatever its size, in memory that does not grow with it.

    Args:
        queries: (Q, D) unit vectors.
        blocks: (first row, (B, D) unit vectors, (Q, B) or (1, B) factors, offsets of the same shape) in order.
        k: 1 <= k; at most the size of the pool are returned.

    Returns:
        Scores (Q, min(k, C)), highest first, and rows of the pool (Q, min(k, C)); ties to the lower row.
    """
    parts = range(0, len(queries), QUERIES)
    sizes = [len(queries[start : start + QUERIES]) for start in parts]
    state = [(np.empty((n, 0), np.float32), np.empty((n, 0), np.int64)) for n in sizes]
    for first, candidates, factors, offsets in blocks:
        for number, start in enumerate(parts):
            some = slice(start, start + QUERIES)
            own = some if len(factors) > 1 else slice(None)
            scores = queries[some] @ candidates.T * factors[own] + offsets[own]
            more, columns = top_k(scores, k)
            state[number] = merged(*state[number], more, columns + first, k)
    return np.concatenate([s for s, _ in state]), np.concatenate([c for _, c in state])


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
    all_scores, all_rows = [], []
    for scores, row in zip(best, groups, strict=True):
        found = [members.of(g) for g in row]
        rows = np.concatenate(found)
        each = np.repeat(scores, list(map(len, found)))
        order = np.lexsort((rows, -each))[:k]
        all_scores.append(each[order])
        all_rows.append(rows[order])
    return all_scores, all_rows


def members_of(rows: Ints, groups: int) -> Members:
    """Return the rows of each group, given each row's group."""
    if groups == len(rows):  # each is a group of its own
        return Members(np.argsort(rows), np.arange(groups + 1))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=groups))])
    return Members(np.argsort(rows, kind="stable"), starts)


def rank_list(
    query: Floats, candidates: Floats, places: Ints, factors: Floats, offsets: Floats, k: int
) -> tuple[Floats, Ints]:
    """Rank a query's own list, ties to the earlier.

    Args:
        query: (D,) unit vector.
        candidates: (U, D) distinct unit vectors of the list.
        places: (L,) which of them each candidate of the list is.
        factors: (U,) and offsets (U,) of the scores.
        offsets: see factors.
        k: at most the length of the list are returned.

    Returns:
        Scores (k,), highest first, and places in the list (k,).
    """
    best, columns = top_k((candidates @ query * factors + offsets)[places][None], k)
    return best[0], columns[0]
