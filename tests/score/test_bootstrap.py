"""Bootstrap intervals: what they are the mean of, and how often they hold the truth."""

import numpy as np
import pytest

from gcl.score.bootstrap import interval, resample_counts


def test_clusters_are_drawn_whole_and_a_row_sums_to_n():
    clusters = (0, 0, 0, 1, 1, 2, 3)
    counts = resample_counts(7, 200, clusters)
    np.testing.assert_allclose(counts.sum(1), 7, rtol=1e-5)
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 3] == counts[:, 4]).all()
    values = np.arange(7.0)[:, None]
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 4, (200, 4))  # the same draws, by hand
    members = [[i for i, c in enumerate(clusters) if c == name] for name in range(4)]
    means = [np.mean([values[i, 0] for name in row for i in members[name]]) for row in draws]
    np.testing.assert_allclose((counts @ values / 7).ravel(), means, rtol=1e-5)


def test_queries_by_themselves_are_clusters_of_one():
    np.testing.assert_allclose(resample_counts(9, 50, tuple(range(9))), resample_counts(9, 50), rtol=1e-6)


@pytest.mark.parametrize(("by_cluster", "least", "most"), [(True, 0.91, 0.98), (False, 0.55, 0.88)])
def test_intervals_over_clusters_hold_the_truth_as_often_as_they_say(by_cluster, least, most):
    """Successes of 120 clusters of one to nine queries that succeed together: 400 experiments, truth 0.4."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 10, 120)
    clusters = np.repeat(np.arange(120), sizes)
    counts = resample_counts(len(clusters), 400, tuple(clusters.tolist()) if by_cluster else ())
    held = 0
    for _ in range(400):
        together = rng.random(120) < 0.4
        own = rng.random(len(clusters)) < 0.4
        values = np.where(rng.random(len(clusters)) < 0.7, together[clusters], own).astype(np.float32)
        low, high = interval(values[:, None], counts)
        held += bool(low[0] <= 0.4 <= high[0])
    assert least < held / 400 < most
