"""Agreement with the official evaluators' own functions, where checkouts of their repositories are at hand.

    OFFICIAL_CODE=folder pytest tests/prepare/test_official.py

The folder holds UniIR (TIGER-AI-Lab/UniIR), VLM2Vec (TIGER-AI-Lab/VLM2Vec, branch v1), CoVR (lucas-ventura/CoVR) and
CIRCO (miccunifi/CIRCO). Their modules need packages that we don't have, so single functions are taken from their files.
"""

import ast
import json
import os
import re
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcl.data.annotations import clean_edit
from gcl.data.items import Contents, Excluded, Listed, Qrel, Task
from gcl.prepare.benchmarks.mbeir import clean, read_qrels
from support.arrays import unit_rows
from support.protocols import ordered, run, texts

pytestmark = pytest.mark.skipif("OFFICIAL_CODE" not in os.environ, reason="OFFICIAL_CODE names no folder")


def official(path, name, **scope):
    """One function of a file, without what its module imports and without decorators."""
    tree = ast.parse((Path(os.environ["OFFICIAL_CODE"]) / path).read_text())
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    function.decorator_list = []
    scope |= {"np": np, "re": re, "defaultdict": defaultdict, "Path": Path, "Dict": dict, "List": list, "Tuple": tuple}
    exec(compile(ast.Module([function], []), path, "exec"), scope)  # noqa: S102
    return scope[name]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text('a"\r .?!', max_size=12)))
def test_texts_are_cleaned_as_by_uniir_and_covr(text):
    assert clean(text) == official("UniIR/src/data/preprocessing/utils.py", "format_string")(text)
    assert clean_edit(text) == official("CoVR/src/data/utils.py", "pre_caption")(text, 30)


def test_qrels_are_read_as_by_uniir(root):
    for path in sorted((root / "data/mbeir_fixture/qrels/test").glob("*.txt")):
        theirs, _ = official("UniIR/src/common/mbeir_retriever.py", "load_qrel")(path)
        ours = defaultdict(list)
        for qrel in read_qrels(path, path.name.removeprefix("mbeir_").removesuffix("_test_qrels.txt")):
            ours[qrel.query_id].append(qrel.candidate_id)
        assert ours == {query: list(dict.fromkeys(found)) for query, found in theirs.items()}


def random_task(rng, n_queries, n_candidates):
    asked, names = [f"q{k}" for k in range(n_queries)], [str(k) for k in range(n_candidates)]
    queries = dict(zip(asked, unit_rows(rng, n_queries, 4), strict=True))
    return asked, names, queries, dict(zip(names, unit_rows(rng, n_candidates, 4), strict=True))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 20))
def test_recall_is_uniir_s(seed, n_queries, n_candidates):
    rng = np.random.default_rng(seed)
    asked, names, queries, candidates = random_task(rng, n_queries, n_candidates)
    positives = {q: sorted(set(rng.choice(names, rng.integers(0, 4)).tolist())) for q in asked}
    task = Task("t", "text", "text", "query", {"local": ["pool"]})
    qrels = [Qrel("t", q, c) for q in asked for c in positives[q]]
    contents = Contents({"query": texts(asked), "pool": texts(names)}, [task], qrels)
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), contents, queries, candidates, ["Success@1", "Success@5"])["scores"]
    recall = official("UniIR/src/common/mbeir_retriever.py", "compute_recall_at_k")
    for k in (1, 5):
        expected = np.mean([recall(positives[q], ordered(queries[q], names, candidates), k) for q in asked])
        assert found["t", "local", f"Success@{k}"] == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 8), st.booleans())
def test_accuracy_is_mmeb_s(seed, n_queries, length, normalization):
    rng = np.random.default_rng(seed)
    asked, names, queries, candidates = random_task(rng, n_queries, 10)
    rows = {q: rng.choice(names, length, replace=False).tolist() for q in asked}  # the first is right
    lists = [Listed("t", "official", q, [*rows[q][1:], rows[q][0]], length) for q in asked]
    task = Task("t", "text", "text", "query", {"official": ["pool"]}, ("official",))
    contents = Contents(
        {"query": texts(asked), "pool": texts(names)}, [task], [Qrel("t", q, rows[q][0]) for q in asked], lists
    )
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), contents, queries, candidates, ["Success@1"])["scores"]
    predict = official("VLM2Vec/evaluation/eval_utils.py", "get_pred")
    hits = [predict(queries[q], np.stack([candidates[c] for c in rows[q]]), normalization)[1] == 0 for q in asked]
    assert found["t", "official", "Success@1"] == pytest.approx(np.mean(hits), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60))
def test_recall_is_covr_s(seed, n):
    rng = np.random.default_rng(seed)
    asked, names, queries, candidates = random_task(rng, n, n)
    own = [names[(k + 1) % n] if rng.random() < 0.5 else None for k in range(n)]
    task = Task("covr", "text", "text", "query", {"all": ["pool"]})
    qrels = [Qrel("covr", q, names[k]) for k, q in enumerate(asked)]
    excluded = [Excluded("covr", asked[k], [own[k]]) for k in range(n) if own[k]]
    contents = Contents({"query": texts(asked), "pool": texts(names)}, [task], qrels, [], excluded)
    with tempfile.TemporaryDirectory() as folder:
        measures = [f"Success@{k}" for k in (1, 5, 10, 50)]
        found = run(Path(folder), contents, queries, candidates, measures)["scores"]
    matrix = np.array([[queries[q] @ candidates[c] for c in names] for q in asked])
    for k in range(n):
        if own[k]:
            matrix[k, names.index(own[k])] = -10
    theirs = official("CoVR/src/test/blip/webvid_covr.py", "eval_recall")(matrix)
    for k in (1, 5, 10, 50):
        assert round(100 * found["covr", "all", f"Success@{k}"], 2) == pytest.approx(theirs[f"R{k}"], abs=0.011)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 30))
def test_map_and_recall_are_circo_s(seed, n_queries, n):
    rng = np.random.default_rng(seed)
    asked, names, queries, candidates = random_task(rng, n_queries, n)
    right = {q: rng.choice(names, rng.integers(1, n + 1), replace=False).tolist() for q in asked}
    tasks = [Task(name, "text", "text", "query", {"all": ["pool"]}) for name in ("circo", "circo_one")]
    qrels = [Qrel("circo", q, c) for q in asked for c in right[q]] + [Qrel("circo_one", q, right[q][0]) for q in asked]
    contents = Contents({"query": texts(asked), "pool": texts(names)}, tasks, qrels)
    with tempfile.TemporaryDirectory() as folder:
        measures = [f"{name}@{k}" for name in ("APmin", "Success") for k in (5, 10, 25, 50)]
        found = run(Path(folder), contents, queries, candidates, measures)["scores"]

    def dataset(*_, **__):
        labels = {
            k: {"gt_img_ids": [*map(int, right[q])], "target_img_id": int(right[q][0])} for k, q in enumerate(asked)
        }
        return SimpleNamespace(get_target_img_ids=labels.get, get_semantic_aspects=lambda k: ["addition"])

    predictions = {str(k): [*map(int, ordered(queries[q], names, candidates)[:50])] for k, q in enumerate(asked)}
    compute = official("CIRCO/src/evaluation.py", "compute_metrics", CIRCODataset=dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # means of no aspects
        precision, recall, _ = compute(None, predictions, [5, 10, 25, 50])
    for k in (5, 10, 25, 50):
        assert found["circo", "all", f"APmin@{k}"] == pytest.approx(precision[k], abs=1e-6)
        assert found["circo_one", "all", f"Success@{k}"] == pytest.approx(recall[k], abs=1e-6)


def cirr_as_in_mbeir(records):
    """UniIR's rule: equal (reference, caption) are one query, every image scored 1.0 is relevant, one at least."""
    queries = {}
    for record in records:
        relevant = queries.setdefault((record["reference"], record["caption"]), {})
        relevant |= dict.fromkeys(name for name, score in record["target_soft"].items() if score == 1.0)
    return {query: list(names) for query, names in queries.items() if names}


@pytest.mark.skipif("CIRR_ANNOTATIONS" not in os.environ, reason="CIRR_ANNOTATIONS names no cap.rc2.val.json")
def test_cirr_has_as_many_queries_and_positives_as_in_mbeir():
    queries = cirr_as_in_mbeir(json.loads(Path(os.environ["CIRR_ANNOTATIONS"]).read_text()))
    assert (len(queries), sum(map(len, queries.values()))) == (4170, 4216)
