"""Our measures against slow transcriptions of the official evaluators' definitions, on random small benchmarks."""

import tempfile
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gcl.data.items import Contents, Excluded, Listed, Qrel, Task
from gcl.retrieve import exact as ranking
from support.protocols import ordered, run, texts


def vector(rng):
    """A unit vector whose products with others are exact in any order of summing, and often equal."""
    if rng.random() < 0.5:
        return np.eye(4, dtype=np.float32)[rng.integers(4)]
    return rng.choice([-0.5, 0.5], 4).astype(np.float32)


@settings(max_examples=25, deadline=None)
@example(2, 4, 4, 2)  # a tie at zero
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 12), st.sampled_from([2, 5, 16384]))
def test_recall_is_uniir_s_and_runs_load_elsewhere(seed, n_queries, n_candidates, block):
    rng = np.random.default_rng(seed)
    names = [f"0:{k + 1}" for k in range(n_candidates)]
    asked = [f"q{k}" for k in range(n_queries)]
    queries, candidates = {q: vector(rng) for q in asked}, {c: vector(rng) for c in names}
    positives = {q: set(rng.choice(names, rng.integers(0, 4)).tolist()) for q in asked}
    qrels = [Qrel("t", q, c) for q in asked for c in sorted(positives[q])]
    task = Task("t", "text", "text", "query", {"local": ["pool"]})
    contents = Contents({"query": texts(asked), "pool": texts(names)}, [task], qrels)
    measures = ["Success@1", "Success@5", "R@5", "nDCG@10"]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK", block)
        found = run(Path(folder), contents, queries, candidates, measures)["scores"]
        trec = list(ir_measures.read_trec_run(str(next(Path(folder).glob("trec/*.trec")))))
    for k in (1, 5):  # UniIR: 1 if any of the first k is relevant
        hits = [bool(positives[q] & set(ordered(queries[q], names, candidates)[:k])) for q in asked]
        assert found["t", "local", f"Success@{k}"] == pytest.approx(np.mean(hits), abs=1e-6)
    share = [
        len(positives[q] & set(ordered(queries[q], names, candidates)[:5])) / max(1, len(positives[q])) for q in asked
    ]
    assert found["t", "local", "R@5"] == pytest.approx(np.mean(share), abs=1e-6)
    if qrels:
        given_qrels = [ir_measures.Qrel(q.query_id, q.candidate_id, 1) for q in qrels]
        parsed = [ir_measures.parse_measure(m) for m in measures]
        elsewhere = {str(m.measure): 0.0 for m in ir_measures.iter_calc(parsed, given_qrels, trec)}
        for metric in ir_measures.iter_calc(parsed, given_qrels, trec):
            elsewhere[str(metric.measure)] += metric.value / n_queries
        for name, value in elsewhere.items():
            assert found["t", "local", name] == pytest.approx(value, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 8))
def test_mmeb_s_accuracy_is_ours_and_the_queries_that_a_tie_decides(seed, n_queries, length):
    rng = np.random.default_rng(seed)
    names = [f"c{k}" for k in range(10)]
    asked = [f"q{k}" for k in range(n_queries)]
    queries, candidates = {q: vector(rng) for q in asked}, {c: vector(rng) for c in names}
    rows = {q: rng.choice(names, length, replace=False).tolist() for q in asked}  # the first is right
    qrels = [Qrel("t", q, rows[q][0]) for q in asked]
    lists = [Listed("t", "official", q, [*rows[q][1:], rows[q][0]], length) for q in asked]
    task = Task("t", "text", "text", "query", {"official": ["pool"]}, ("official",))
    contents = Contents({"query": texts(asked), "pool": texts(names)}, [task], qrels, lists)
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), contents, queries, candidates, ["Success@1"])
    scores = {q: np.array([np.float32(queries[q] @ candidates[c]) for c in rows[q]]) for q in asked}
    official = np.mean([scores[q].argmax() == 0 for q in asked])
    strict = np.mean([(scores[q][0] > scores[q][1:]).all() for q in asked])
    ours, ties = found["scores"]["t", "official", "Success@1"], found["ties"]["t", "official", "Success@1"]
    assert ours == pytest.approx(strict, abs=1e-6)
    assert ours + ties / n_queries == pytest.approx(official, abs=1e-6)


def test_a_model_whose_scores_are_all_equal_gets_nothing_in_mmeb(tmp_path):
    names, same = [f"c{k}" for k in range(4)], np.array([1, 0, 0, 0], np.float32)
    task = Task("t", "text", "text", "query", {"official": ["pool"]}, ("official",))
    lists = [Listed("t", "official", "q", [*names[1:], names[0]])]
    contents = Contents({"query": texts(["q"]), "pool": texts(names)}, [task], [Qrel("t", "q", "c0")], lists)
    found = run(tmp_path, contents, {"q": same}, dict.fromkeys(names, same), ["Success@1"])
    assert found["scores"]["t", "official", "Success@1"] == 0
    assert found["ties"]["t", "official", "Success@1"] == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_covr_s_recall_leaves_out_the_query_s_own_video(seed, n):
    rng = np.random.default_rng(seed)
    names = [f"v{k}" for k in range(n)]
    own = [names[(k + 1) % n] if rng.random() < 0.5 else None for k in range(n)]
    queries = {f"q{k}": vector(rng) for k in range(n)}
    candidates = {c: vector(rng) for c in names}
    task = Task("covr", "text", "text", "query", {"all": ["pool"]})
    qrels = [Qrel("covr", f"q{k}", names[k]) for k in range(n)]
    excluded = [Excluded("covr", f"q{k}", [own[k]]) for k in range(n) if own[k]]
    contents = Contents({"query": texts(queries), "pool": texts(names)}, [task], qrels, [], excluded)
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), contents, queries, candidates, ["Success@1", "Success@5"])
    for k in (1, 5):  # CoVR: scores of the own video are set to -10, then the rank of candidate i for query i
        hits = []
        for i in range(n):
            row = np.array([np.float32(queries[f"q{i}"] @ candidates[c]) for c in names])
            if own[i]:
                row[names.index(own[i])] = -10
            rank = int((row > row[i]).sum() + (row[:i] == row[i]).sum())  # the earlier where scores are equal
            hits.append(rank < k)
        assert found["scores"]["covr", "all", f"Success@{k}"] == pytest.approx(np.mean(hits), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_circo_s_map_divides_by_what_can_be_found(seed, n):
    rng = np.random.default_rng(seed)
    names = [f"c{k}" for k in range(n)]
    query, candidates = {"q": vector(rng)}, {c: vector(rng) for c in names}
    right = set(rng.choice(names, rng.integers(1, n + 1), replace=False).tolist())
    task = Task("circo", "text", "text", "query", {"all": ["pool"]})
    contents = Contents(
        {"query": texts(query), "pool": texts(names)}, [task], [Qrel("circo", "q", c) for c in sorted(right)]
    )
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), contents, query, candidates, ["APmin@5"])
    labels = [c in right for c in ordered(query["q"], names, candidates)[:5]]
    precisions = [sum(labels[: i + 1]) / (i + 1) for i, is_hit in enumerate(labels) if is_hit]
    assert found["scores"]["circo", "all", "APmin@5"] == pytest.approx(sum(precisions) / min(len(right), 5), abs=1e-6)


def test_nan_is_an_error_not_a_hit(tmp_path):
    names = ["c0", "c1"]
    task = Task("t", "text", "text", "query", {"all": ["pool"]})
    contents = Contents({"query": texts(["q"]), "pool": texts(names)}, [task], [Qrel("t", "q", "c0")])
    bad = np.array([np.nan, 0, 0, 0], np.float32)
    with pytest.raises(ValueError, match="NaN"):
        run(tmp_path, contents, {"q": bad}, dict.fromkeys(names, bad), ["Success@1"])
