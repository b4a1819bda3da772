"""Biases against loops, their sums, and a search that adds them against one that takes them off a whole matrix."""

import numpy as np
import pytest

from gcl.common.arrays import MODALITIES
from gcl.common.errors import UserError
from gcl.retrieve import biases
from gcl.retrieve.biases import BIASES, FACTOR, SHARPNESS, equal_weights, read_bank, sinkhorn_weights, write_bank
from gcl.retrieve.exact import Pool, Query, best_of_pool
from support.arrays import unit_rows


@pytest.fixture
def bank(rng):
    return {m: unit_rows(rng, n, 8) for m, n in zip(MODALITIES, (40, 50, 60), strict=True)}


def literal(mode, candidate, rows, weights):
    scores = [float(np.dot(x.astype(np.float64), candidate.astype(np.float64))) for x in rows]
    if mode == "nnn":
        return sum(sorted(scores)[-32:]) / 32
    total = sum(w * np.exp(SHARPNESS * s) for w, s in zip(weights, scores, strict=True))
    return np.log(total) / SHARPNESS


@pytest.mark.parametrize("mode", BIASES)
def test_biases_are_those_of_a_loop(rng, bank, mode):
    candidates = unit_rows(rng, 2100, 8)  # more than a piece
    weights = sinkhorn_weights(bank, 2100, lambda: [candidates]) if mode == "sinkhorn" else equal_weights(bank)
    found = biases.biases(mode, candidates, bank, weights)
    for row in (0, 1023, 1024, 2099):
        for column, (m, rows) in enumerate(bank.items()):
            assert found[row, column] == pytest.approx(literal(mode, candidates[row], rows, weights[m]), abs=1e-6)


def test_sinkhorn_gives_all_rows_one_sum_and_all_columns_one_sum(rng, monkeypatch):
    monkeypatch.setattr(biases, "ROUNDS", 300)  # as many as it takes
    monkeypatch.setattr(biases, "STILL", 1e-4)
    bank = {m: unit_rows(rng, n, 64) for m, n in zip(MODALITIES, (40, 50, 60), strict=True)}
    candidates = unit_rows(rng, 90, 64)
    weights = sinkhorn_weights(bank, 90, lambda: [candidates[:30], candidates[30:]])
    read_again = sinkhorn_weights(bank, 1 << 40, lambda: [candidates[:30], candidates[30:]])  # as a large pool
    assert all((weights[m] == read_again[m]).all() for m in bank)
    found = biases.biases("sinkhorn", candidates, bank, weights).astype(np.float64)
    for column, (m, rows) in enumerate(bank.items()):
        scores = rows.astype(np.float64) @ candidates.T.astype(np.float64)
        plan = weights[m][:, None] * np.exp(SHARPNESS * (scores - found[:, column]))  # columns sum to 1 by the bias
        np.testing.assert_allclose(plan.sum(0), 1, rtol=1e-4)
        np.testing.assert_allclose(plan.sum(1), len(candidates) / len(rows), rtol=0.002)


@pytest.mark.parametrize("mode", BIASES)
def test_a_search_with_four_more_numbers_takes_the_bias_off(rng, bank, mode):
    candidates, modality = unit_rows(rng, 300, 8), np.arange(24) % 3
    queries = unit_rows(rng, 24, 8)
    found = biases.biases(mode, candidates, bank, equal_weights(bank))
    vectors = biases.with_biases(candidates, found)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    asked = biases.as_queries(queries, modality.astype(np.int8))
    np.testing.assert_allclose(np.linalg.norm(asked, axis=1), 1, atol=1e-6)
    pool = Pool(300, vectors.__getitem__, np.zeros(300, np.int8))
    scores, rows = best_of_pool([Query(asked, np.full((24, 3), FACTOR), np.zeros((24, 3)))], pool, 300)
    expected = queries.astype(np.float64) @ candidates.T.astype(np.float64) - found[:, modality].T
    np.testing.assert_allclose(scores, np.take_along_axis(expected, rows, 1), atol=2e-6)


def test_equal_biases_change_no_place(rng):
    candidates, queries = unit_rows(rng, 50, 8), unit_rows(rng, 5, 8)
    vectors = biases.with_biases(candidates, np.full((50, 3), 0.3, np.float32))
    asked = biases.as_queries(queries, np.zeros(5, np.int8))
    assert (np.argsort(-asked @ vectors.T, 1) == np.argsort(-queries @ candidates.T, 1)).all()


def test_a_bank_is_read_back_and_missed(tmp_path, bank):
    path = tmp_path / "seed0.json"
    assert read_bank(path, ["none", "center_zscore"]) is None
    with pytest.raises(UserError, match=r"nnn compares with training queries, and .*seed0.npz does not exist"):
        read_bank(path, ["none", "nnn"])
    write_bank(biases.bank_path(path), bank)
    found = read_bank(path, ["sinkhorn"])
    assert all((found[m] == bank[m]).all() for m in MODALITIES)
