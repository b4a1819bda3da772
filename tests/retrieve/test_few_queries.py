"""The pass for few queries, in float32 or over the copy in 8 bits, against the slow search of everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcl.common.errors import UserError
from gcl.retrieve.exact import Pool, Query, best_of_pool
from gcl.retrieve.scan.rounded import rounded
from gcl.retrieve.search import bound, search_few
from support.arrays import unit_rows


def pool_of(vectors, modalities):
    return Pool(len(vectors), lambda rows: vectors[rows], modalities)


@pytest.mark.parametrize("copy", ["none", "8 bits", "7 bits"])  # that is read in place of the vectors
@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 300), st.integers(1, 40),
    st.sampled_from(["random", "equal", "near", "few values", "one number"]),
)  # fmt: skip
def test_the_best_are_those_of_the_slow_search(copy, seed, n, size, k, kind):
    rng = np.random.default_rng(seed)
    candidates = unit_rows(rng, size, 16)
    if kind == "equal":
        candidates[:] = candidates[0]
    elif kind == "near":  # differences below the error of a float32 product
        candidates = candidates[:1] + rng.normal(0, 1e-7, (size, 16)).astype(np.float32)
    elif kind == "few values":
        candidates = candidates[rng.integers(0, min(size, 3), size)]
    elif kind == "one number":
        candidates = np.eye(16, dtype=np.float32)[rng.integers(0, 16, size)]
    modalities = rng.integers(0, 3, size).astype(np.int8)
    scales = rng.uniform(0.5, 20, (n, 3)), rng.normal(0, 5, (n, 3))
    query = Query(unit_rows(rng, n, 16), *scales)
    pool = pool_of(candidates, modalities)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("search", "scan.rounded"):
            patch.setattr(f"gcl.retrieve.{name}.BLOCK", 64)
        patch.setattr("gcl.retrieve.scan.rounded.saturates", lambda: copy == "7 bits")
        scores, rows = search_few(query, pool if copy == "none" else pool._replace(rounded=rounded(candidates)), k)
    expected = best_of_pool([query], pool, k)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_array_equal(scores, expected[0])


@pytest.mark.parametrize("width", [4, 256, 4096])
def test_the_bound_holds_with_room(rng, width):
    a, b = unit_rows(rng, 500, width), unit_rows(rng, 500, width)
    off = np.abs((a @ b.T).astype(np.float64) - a.astype(np.float64) @ b.T.astype(np.float64)).max()
    assert 0 < off < bound(width) < 1e-3


def test_nan_is_an_error(rng):
    vectors = unit_rows(rng, 5, 4)
    vectors[3, 2] = np.nan
    query = Query(unit_rows(rng, 1, 4), np.ones((1, 3)), np.zeros((1, 3)))
    with pytest.raises(UserError, match="NaN"):
        search_few(query, pool_of(vectors, np.zeros(5, np.int8)), 2)
