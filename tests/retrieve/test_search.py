"""gcl.search against the whole matrix of scores."""

import sys

import numpy as np
import pytest

import gcl
from gcl.common.errors import UserError
from gcl.retrieve import search as module
from gcl.retrieve.exact import Pool, Query, best_of_pool
from support.arrays import unit_rows


@pytest.mark.parametrize("worth_a_scan", [0, 10**12])
def test_the_best_are_those_of_the_whole_matrix(rng, monkeypatch, tmp_path, worth_a_scan):
    for name in ("WORTH_A_SCAN", "WORTH_AN_IMPORT"):
        monkeypatch.setattr(module, name, worth_a_scan)
    monkeypatch.setattr(module, "QUERIES", 4)
    queries, candidates = unit_rows(rng, 9, 8), unit_rows(rng, 50, 8)
    candidates[30:] = candidates[:20]  # ties
    np.save(tmp_path / "c.npy", candidates)
    scores = (queries.astype(np.float64) @ candidates.T.astype(np.float64)).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")
    for pool in (candidates, np.load(tmp_path / "c.npy", mmap_mode="r")):
        hits = gcl.search(queries, pool, k=7, device="cpu")
        np.testing.assert_array_equal(hits.rows, order[:, :7])
        np.testing.assert_array_equal(hits.scores, np.take_along_axis(scores, order[:, :7], 1))
    assert gcl.search(queries, candidates, k=99).rows.shape == (9, 50)


def test_without_torch_a_large_pool_is_searched_plainly(rng, monkeypatch, caplog):
    for name in ("WORTH_A_SCAN", "WORTH_AN_IMPORT", "FEW", "SOME"):
        monkeypatch.setattr(module, name, 0)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    queries = unit_rows(rng, 3, 4)
    assert gcl.search(queries, queries, k=1).rows.ravel().tolist() == [0, 1, 2]
    assert "torch is not installed: a pool of 3 is searched plainly" in caplog.text


def test_nothing_to_search_is_no_error(rng):
    rows = unit_rows(rng, 3, 4)
    assert gcl.search(rows[:0], rows).rows.shape == (0, 3)
    assert gcl.search(rows, rows[:0]).rows.shape == (3, 0)


@pytest.mark.parametrize(
    ("width", "k", "scale", "message"),
    [
        (5, 1, 1, r"queries are \(3, 4\), candidates \(3, 5\)"),
        (4, 0, 1, "k is 0, expected 1 or more"),
        (4, 1, 2, "candidates are no unit vectors: a length is off by 1; divide each by its length"),
        (4, 1, np.nan, "NaN or infinity"),
        (4, 1, 1e25, "infinite norm"),
    ],
)
def test_what_can_not_be_searched_is_said(rng, width, k, scale, message):
    with pytest.raises(UserError, match=message):
        gcl.search(unit_rows(rng, 3, 4), unit_rows(rng, 3, width) * np.float32(scale), k=k)


def test_a_query_that_is_no_row_and_a_late_that_divides_nothing_are_refused(rng):
    rows = unit_rows(rng, 3, 4)
    with pytest.raises(UserError, match=r"queries are \(4,\), candidates \(3, 4\): expected \(Q, D\)"):
        gcl.search(rows[0], rows)
    with pytest.raises(UserError, match=r"candidates \(4,\)"):
        gcl.search(rows, rows[0])
    for late in (0, 3):
        with pytest.raises(UserError, match=f"late is {late}, expected a number that divides the width 4"):
            gcl.search(rows, rows, late=late)


@pytest.mark.parametrize("is_imported", [True, False], ids=["with torch", "before torch"])
@pytest.mark.parametrize(("n", "fewest"), [(1, 5), (3, 5), (3, 2), (8, 5), (9, 5), (33, 5)])
def test_however_many_queries_the_best_are_those_of_the_plain_search(rng, monkeypatch, n, fewest, is_imported):
    for name in ("WORTH_A_SCAN", "WORTH_AN_IMPORT"):
        monkeypatch.setattr(module, name, 100)
    for name, small in (("PIECE", 7), ("ALONE", 7 * 16), ("BLOCK", 64), ("AHEAD", 2), ("FEWEST", fewest)):
        monkeypatch.setattr(module, name, small)
    if not is_imported:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        monkeypatch.setattr(module, "SOME", 33)
    candidates = unit_rows(rng, 300, 16)
    candidates[200:] = candidates[:100]  # ties
    modalities = rng.integers(0, 3, 300).astype(np.int8)
    pool = Pool(300, candidates.__getitem__, modalities)
    query = Query(unit_rows(rng, n, 16), 0.5 + rng.random((n, 3)), rng.standard_normal((n, 3)))
    for k in (1, 10, 300):
        expected = best_of_pool([query], pool, k)
        for found, right in zip(module.best_rows([query], pool, k, "cpu"), expected, strict=True):
            np.testing.assert_array_equal(found, right)
