"""The best candidates of every query, exactly: the same result whichever way is faster here."""

import logging
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from gcl.common.arrays import Floats, Ints, norms
from gcl.common.errors import UserError
from gcl.retrieve.exact import Pool, Query, best_of_pool
from gcl.retrieve.few_queries import search_few

log = logging.getLogger(__name__)

FEW = 4  # queries that are searched by one pass in float32
QUERIES = 1024  # that are scored at a time
WORTH_A_SCAN = 50_000_000  # scores; below, a plain search is done before torch is imported
FAR_FROM_ONE = 1e-3  # of a unit vector's length


class Hits(NamedTuple):
    """The best candidates of each query."""

    scores: Floats  # (Q, k), highest first
    rows: Ints  # (Q, k) into the candidates


def search(queries: Floats, candidates: Floats, k: int = 10, device: str = "auto") -> Hits:
    """Find the k candidates of highest cosine for every query, exactly; ties go to the lower row.

    Args:
        queries: (Q, D) unit vectors.
        candidates: (C, D) unit vectors, in memory or a memory-mapped file of float32, which is read in blocks.
        k: 1 <= k; at most C are returned.
        device: auto, cpu or cuda: where a large pool is scanned. Without torch it is searched plainly, and slower.

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

    pool = Pool(len(candidates), vectors_of, np.zeros(len(candidates), np.int8))
    return Hits(*best_rows([Query(queries[part], ones[part], zeros[part]) for part in parts], pool, k, device))


def best_rows(queries: list[Query], pool: Pool, k: int, device: str) -> tuple[Floats, Ints]:
    """Return scores and rows (Q, min(k, C)) of the k best of a pool: for few queries, of a small pool, or by a scan."""
    n = sum(len(query.vectors) for query in queries)
    if n and n <= FEW and len(queries) == 1 and device != "cuda":
        return search_few(queries[0], pool, k)
    if pool.size * n < WORTH_A_SCAN:
        return best_of_pool(queries, pool, k)
    if find_spec("torch") is None:
        log.warning(
            "torch is not installed: a pool of %d is searched plainly; `gcl-retrieval[train]` has it", pool.size
        )
        return best_of_pool(queries, pool, k)
    from gcl.common.torch_device import choose_device
    from gcl.retrieve import pruned_scan

    return pruned_scan.scan_pool(queries, pool, k, choose_device(device))
