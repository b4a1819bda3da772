"""The scan in low precision against plain search in float64, and its bound against adversaries."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gcl.retrieve import exact as ranking
from gcl.retrieve.exact import Pool, Query
from gcl.retrieve.scan import pruned as scan
from support.arrays import unit_rows

CPU = torch.device("cpu")
PRECISIONS = {"bf16": scan.BF16, "fp16": scan.FP16, "fp32": scan.FP32}


def pool_of(vectors, modalities):
    return Pool(len(vectors), vectors.__getitem__, modalities)


def queries_of(vectors, factors, offsets, size):
    parts = [slice(i, i + size) for i in range(0, len(vectors), size)]
    return [Query(vectors[p], factors[p], offsets[p]) for p in parts]


def obvious(vectors, modalities, queries, k):
    """Every score, sorted."""
    found = []
    for query in queries:
        for q, factor, offset in zip(*query[:3], strict=True):
            scores = [
                np.float32(sum(float(a) * float(b) for a, b in zip(q, v, strict=True)) * factor[m] + offset[m])
                for v, m in zip(vectors, modalities, strict=True)
            ]
            found.append(sorted(range(len(scores)), key=lambda c: (-scores[c], c))[:k])
    return found


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(scan, "BLOCK", 16)
    monkeypatch.setattr(scan, "GROUP", 4)
    monkeypatch.setattr(scan, "PENDING", 20)
    monkeypatch.setattr(ranking, "PAIRS", 5)
    monkeypatch.setattr(ranking, "PIECE", 3)
    monkeypatch.setattr(ranking, "BLOCK", 7)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    candidates=st.integers(1, 70),
    queries=st.integers(1, 5),
    k=st.integers(1, 30),
    width=st.sampled_from([2, 3, 16]),
    spread=st.sampled_from([0.0, 1e-4, 0.02, 1.0]),  # of the candidates around a few centres: many near ties
    precision=st.sampled_from(sorted(PRECISIONS)),
    calibrated=st.booleans(),
    is_shared=st.booleans(),
)
def test_the_scan_finds_what_plain_search_finds(
    small_blocks, seed, candidates, queries, k, width, spread, precision, calibrated, is_shared
):
    rng = np.random.default_rng(seed)
    centres = unit_rows(rng, 3, width)
    vectors = centres[rng.integers(3, size=candidates)] + spread * rng.standard_normal((candidates, width))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    modalities = rng.integers(3, size=candidates).astype(np.int8)
    factors = rng.uniform(0.5, 20, (queries, 3)) if calibrated else np.ones((queries, 3))
    offsets = rng.normal(size=(queries, 3)) if calibrated else np.zeros((queries, 3))
    parts = queries_of(unit_rows(rng, queries, width), factors, offsets, 2)
    if is_shared:  # other scores of the same products
        parts += [part._replace(factors=part.factors[:, [2, 0, 1]], offsets=part.offsets + 1) for part in parts]
    pool = pool_of(vectors, modalities)
    scores, rows = ranking.best_of_pool(parts, pool, k)
    assert rows.tolist() == obvious(vectors, modalities, parts, k)
    found_scores, found_rows = scan.scan_pool(parts, pool, k, CPU, PRECISIONS[precision])
    assert found_rows.tolist() == rows.tolist()
    assert found_scores.tolist() == scores.tolist()


@pytest.mark.parametrize("name", sorted(PRECISIONS))
@pytest.mark.parametrize("width", [8, 512, 1024])
def test_the_bound_holds(rng, name, width):
    """Random vectors, and ones that are as unlucky as rounding allows."""
    precision = PRECISIONS[name]
    # All numbers are just below the midpoint of two neighbours; a power of two in front keeps them there.
    scale = 2.0 ** (np.ceil(-np.log2(width) / 2) - 1)
    unlucky = np.full((2, width), scale * (1 + 0.998 * precision.unit))
    unlucky[1, ::2] *= -1
    assert np.linalg.norm(unlucky, axis=1).max() <= 1
    vectors = np.concatenate([unit_rows(rng, 300, width), unlucky]).astype(np.float32)
    x = torch.from_numpy(vectors)
    found = (x.to(precision.dtype) @ x.to(precision.dtype).T).double()
    error = (found - x.double() @ x.double().T).abs()
    allowed = precision.error(x)[:, None] + precision.result * found.abs()
    assert (error <= allowed).all()
    assert error.max() > 0


@pytest.mark.parametrize("name", sorted(PRECISIONS))
@pytest.mark.parametrize("lowest", [-0.5, 2.0**-20, 0.3])
def test_the_largest_of_a_group_is_right_where_it_reaches_the_cut(name, lowest):
    found = torch.randn(200, 4, 3, generator=torch.Generator().manual_seed(0)).to(PRECISIONS[name].dtype)
    found[0] = -torch.inf  # what fills up the last group
    found[1], found[2] = 0.0, -0.0
    cut = torch.tensor([lowest, 0.4, 1.0]).to(found.dtype)
    expected = found.amax(1)
    reaching = expected >= cut
    assert ((scan.largest(found, cut) >= cut) == reaching).all()
    assert 0 < reaching.sum() < reaching.numel()


def test_few_candidates_are_scored_exactly(rng, monkeypatch):
    """The scan is worth its name: of 20,000 candidates it scores a few hundred for each query."""
    asked = []
    plain = scan.scores_of
    monkeypatch.setattr(scan, "scores_of", lambda *given: asked.append(len(given[2])) or plain(*given))
    pool = pool_of(unit_rows(rng, 20_000, 128), np.zeros(20_000, np.int8))
    parts = queries_of(unit_rows(rng, 8, 128), np.ones((8, 3)), np.zeros((8, 3)), 8)
    scan.scan_pool(parts, pool, 100, CPU, scan.BF16)
    assert 8 * 100 <= sum(asked) < 8 * 400


def test_products_are_made_once_for_searches_of_the_same_vectors(rng, monkeypatch, small_blocks):
    made = []
    plain = scan.Products.multiply
    monkeypatch.setattr(scan.Products, "multiply", lambda *given: made.append(given) or plain(*given))
    pool = pool_of(unit_rows(rng, 64, 8), np.zeros(64, np.int8))
    one, other = queries_of(unit_rows(rng, 4, 8), np.ones((4, 3)), np.zeros((4, 3)), 2)
    parts = [one, other, one._replace(factors=2 * one.factors), other._replace(offsets=other.offsets + 1)]
    scan.scan_pool(parts, pool, 3, CPU, scan.FP32)
    assert len(made) == 2 * 64 // 16  # of parts and blocks


def test_a_large_search_takes_the_scan(rng, monkeypatch):
    from gcl.retrieve import search

    pool = pool_of(unit_rows(rng, 300, 8), np.zeros(300, np.int8))
    parts = queries_of(unit_rows(rng, 12, 8), np.ones((12, 3)), np.zeros((12, 3)), 12)
    expected = search.best_rows(parts, pool, 5, "cpu")
    asked, plain = [], scan.scan_pool
    monkeypatch.setattr(scan, "scan_pool", lambda *given: asked.append(given) or plain(*given))
    monkeypatch.setattr(search, "WORTH_A_SCAN", 100)
    found = search.best_rows(parts, pool, 5, "cpu")
    assert len(asked) == 1
    assert found[1].tolist() == expected[1].tolist()


@pytest.mark.gpu
def test_the_scan_on_a_gpu_finds_what_plain_search_finds(rng):
    pool = pool_of(unit_rows(rng, 50_000, 64), rng.integers(3, size=50_000).astype(np.int8))
    parts = queries_of(unit_rows(rng, 300, 64), rng.uniform(0.5, 20, (300, 3)), rng.normal(size=(300, 3)), 128)
    scores, rows = ranking.best_of_pool(parts, pool, 100)
    found_scores, found_rows = scan.scan_pool(parts, pool, 100, torch.device("cuda"))
    assert found_rows.tolist() == rows.tolist()
    assert found_scores.tolist() == scores.tolist()
