"""Bootstrap intervals over queries."""

from functools import lru_cache

import numpy as np

from gcl.common.arrays import Floats

LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


@lru_cache(maxsize=16)
def resample_counts(n: int, resamples: int) -> Floats:
    """Return (resamples, n) float32: how often each of n queries is drawn; the same for every n alike."""
    generator = np.random.default_rng(0)
    draws = generator.integers(0, n, (resamples, n))
    counts = np.stack([np.bincount(row, minlength=n) for row in draws]).astype(np.float32)
    counts.setflags(write=False)  # all callers share it
    return counts


def interval(values: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Return the percentile interval of the mean of each column of (n, m) values."""
    means = counts @ values / values.shape[0]  # (resamples, m)
    low, high = np.quantile(means, TAILS, axis=0)
    return low, high
