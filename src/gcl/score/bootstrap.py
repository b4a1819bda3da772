"""Bootstrap intervals over queries."""

from functools import lru_cache

import numpy as np

from gcl.common.arrays import Floats

LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


@lru_cache(maxsize=16)
def resample_counts(n: int, resamples: int, clusters: tuple[int, ...] = ()) -> Floats:
    """Return (resamples, n) float32: how often each of n queries is drawn; the same for every n alike.

    Args:
        n: queries.
        resamples: how often they are drawn.
        clusters: of each query, those of which are drawn together (the cluster bootstrap: whole clusters are drawn with
            replacement, as many as there are, and a mean is over all their queries); none: each query by itself. Each
            row then sums to n, so that counts @ values / n is a mean.
    """
    generator = np.random.default_rng(0)
    if len(clusters) != n:
        draws = generator.integers(0, n, (resamples, n))
        counts = np.stack([np.bincount(row, minlength=n) for row in draws]).astype(np.float32)
    else:
        names, of_query = np.unique(clusters, return_inverse=True)
        draws = generator.integers(0, len(names), (resamples, len(names)))
        drawn = np.stack([np.bincount(row, minlength=len(names)) for row in draws])[:, of_query].astype(np.float64)
        counts = (drawn * (n / drawn.sum(1, keepdims=True))).astype(np.float32)
    counts.setflags(write=False)  # all callers share it
    return counts


def interval(values: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Return the percentile interval of the mean of each column of (n, m) values."""
    means = counts @ values / values.shape[0]  # (resamples, m)
    low, high = np.quantile(means, TAILS, axis=0)
    return low, high
