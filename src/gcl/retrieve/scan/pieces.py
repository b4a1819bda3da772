"""Long searches in pieces, whose results are kept until the run is written: a job that was killed goes on.

A piece has so many queries that a CPU is busy with it for minutes, beside which one more pass over the pool is little.
A GPU, which waits for the pool most of the time, searches for all queries at once.
"""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np

from gcl.common.arrays import Floats, Ints
from gcl.common.devices import resolve
from gcl.common.files import atomic_path, begin
from gcl.retrieve.exact import Pool, Query

LONG = 10**11  # scores of a piece: minutes on two cores
Search = Callable[[list[Query], Pool, int, str], tuple[Floats, Ints]]


class Pieces:
    """The long searches of a run, in the order in which they are asked for."""

    def __init__(self, folder: Path, key: Callable[[], str]) -> None:
        """Take where results are kept, and what says what they are results of, if any search is long."""
        self.folder, self.key, self.count = folder, key, 0

    def search(self, search: Search, queries: list[Query], pool: Pool, k: int, device: str) -> tuple[Floats, Ints]:
        """Search for some queries after the other, unless that was done, and return scores and rows of all."""
        most = LONG // max(1, pool.size)
        if sum(len(query.vectors) for query in queries) <= most or resolve(device) == "cuda":
            return search(queries, pool, k, device)
        if not self.count:
            begin(self.folder, self.key())
        self.count += 1
        scores, rows = [], []
        for number, piece in enumerate(divided(queries, most)):
            path = self.folder / f"{self.count}.{number}.npz"
            if not path.exists():
                best = search(piece, pool, k, device)
                with atomic_path(path) as temporary:
                    np.savez(temporary, scores=best[0], rows=best[1])
            with np.load(path) as file:
                scores.append(file["scores"])
                rows.append(file["rows"])
        return np.concatenate(scores), np.concatenate(rows)


def divided(queries: list[Query], most: int) -> list[list[Query]]:
    """Divide queries, at most so many vectors a piece; neighbours with the same array of vectors stay together."""
    pieces: list[list[Query]] = []
    free = 0
    for _, group in groupby(queries, lambda query: id(query.vectors)):
        same = list(group)
        if len(same[0].vectors) > free:
            pieces.append([])
            free = most
        pieces[-1] += same
        free -= len(same[0].vectors)
    return pieces
