"""The second stage: features against a loop, its loss, what it learns, and what it may and may not move."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gcl.common.errors import UserError
from gcl.data.items import write_benchmark
from gcl.data.prepared import read_benchmark
from gcl.export.graphs import head_graph
from gcl.infer.store import Outputs
from gcl.rerank.features import NAMES, Evidence, Items, count_words, pair_features, words_of
from gcl.rerank.fit_reranker import fit_reranker
from gcl.rerank.lists import FIRST_STAGE, RERANK, Inputs, Lists
from gcl.rerank.listwise import list_loss, train
from gcl.rerank.rerank import again, rerank
from gcl.retrieve.calibration import fit, write_calibration
from gcl.retrieve.retrieve import retrieve
from support.arrays import SAME, unit_rows
from support.retrieval import write_model


def test_features_are_those_of_a_loop(rng):
    outputs, towers = (Outputs(unit_rows(rng, 5, 4) * 2, unit_rows(rng, 6, 4)) for _ in range(2))
    stats = fit(unit_rows(rng, 9, 4), unit_rows(rng, 9, 4), "sum_raw")
    means = {"image": rng.normal(size=4).astype(np.float32), "text": rng.normal(size=4).astype(np.float32)}
    texts = ["a red car", "Red car.", "the sea", "a boat at sea", "car", "two words"]
    words = count_words(texts[:4])
    evidence = Evidence(outputs, stats, towers, means, words, pa.chunked_array([texts]))
    n = 40
    sides = []
    for _ in range(2):
        kinds = rng.integers(0, 3, n)
        images = np.where(kinds == 1, -1, rng.integers(0, 5, n))
        sides.append(Items(images, np.where(kinds == 0, -1, rng.integers(0, 6, n)), kinds))
    scores = rng.normal(size=n).astype(np.float32)
    found = pair_features(*sides, scores, evidence)
    assert found.shape == (n, len(NAMES))

    def length_one(x):
        return x / np.linalg.norm(x)

    def head(m, row):
        return length_one(length_one(getattr(outputs, m)[row]) - np.array(getattr(stats, f"{m}_mean")))

    def tower(m, row):
        return length_one(getattr(towers, m)[row] - means[m])

    for i in range(n):
        q = {"image": sides[0].images[i], "text": sides[0].texts[i]}
        c = {"image": sides[1].images[i], "text": sides[1].texts[i]}
        expected = [scores[i]]
        for a, b in (("image", "image"), ("image", "text"), ("text", "image"), ("text", "text")):
            expected.append(head(a, q[a]) @ head(b, c[b]) if min(q[a], c[b]) >= 0 else 0)
        expected += [tower(m, q[m]) @ tower(m, c[m]) if min(q[m], c[m]) >= 0 else 0 for m in ("image", "text")]
        share = 0.0
        if min(q["text"], c["text"]) >= 0:
            weight = {w: math.log(5 / (words.counts.get(w, 0) + 1)) for w in words_of(texts[q["text"]])}
            share = sum(v for w, v in weight.items() if w in words_of(texts[c["text"]])) / sum(weight.values())
        kinds = [side.modalities[i] for side in sides]
        expected += [share, *(float(kind == number) for kind in kinds for number in range(3))]
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_rare_words_weigh_more():
    words = count_words(["a car", "a boat", "a car at sea", "a car"])
    assert words.counts == {"a": 4, "car": 3}  # of one text only: as unknown
    assert words.weight("a") == 0 < words.weight("car") < words.weight("boat") == words.weight("unseen")


def test_the_loss_is_what_the_softmax_leaves_for_others():
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.5, 0.0, 9.0]])
    relevant = torch.tensor([[True, False, True], [False, True, False]])
    listed = torch.tensor([[True, True, True], [True, True, False]])
    first = -math.log((math.exp(2) + 1) / (math.exp(2) + math.exp(1) + 1))
    second = -math.log(1 / (math.exp(0.5) + 1))
    assert list_loss(scores, relevant, listed).item() == pytest.approx((first + second) / 2, abs=1e-6)


def test_it_learns_which_feature_tells(rng):
    features = rng.normal(size=(60, 8, 3)).astype(np.float32)
    relevant = features[:, :, 1] == features[:, :, 1].max(1, keepdims=True)
    listed = np.ones((60, 8), bool)
    first, bias, second = train(features[:40], relevant[:40], listed[:40], 0)
    hidden = torch.nn.functional.gelu(torch.from_numpy(features[40:] @ first.T + bias)).numpy()
    best = (hidden @ second.T)[:, :, 0].argmax(1)
    assert (best == relevant[40:].argmax(1)).mean() > 0.9
    with pytest.raises(UserError, match="no list has a relevant candidate"):
        train(features, np.zeros_like(relevant), listed, 0)


@pytest.fixture
def stage(tmp_path, toy_benchmark, rng):
    """A prepared benchmark, a model's outputs, its statistics and its run, and training texts."""
    folders = {name: tmp_path / name for name in ("prepared", "embeddings", "towers", "onnx", "stats", "pairs")}
    for folder in folders.values():
        folder.mkdir()
    write_benchmark(folders["prepared"], toy_benchmark, {"measures": ["Success@1"]}, SAME)
    outputs = unit_rows(rng, 3, 4), unit_rows(rng, 7, 4)
    write_model(folders["embeddings"] / "seed0", folders["onnx"] / "seed0", *outputs)
    for name, count in (("image", 3), ("text", 7)):
        np.save(folders["towers"] / f"{name}.npy", unit_rows(rng, count, 4))
    write_calibration(folders["stats"] / "seed0.json", fit(unit_rows(rng, 9, 4), unit_rows(rng, 9, 4), "sum_raw"))
    pq.write_table(pa.table({"text": ["a drawing", "a drawing of a car"]}), folders["pairs"] / "texts.parquet")
    run = tmp_path / "run.parquet"
    retrieve(
        folders["prepared"], [folders["embeddings"]], None, folders["onnx"], folders["stats"], ["none", FIRST_STAGE],
        100, "cpu", None, run,
    )  # fmt: skip
    inputs = (run, folders["prepared"], [folders["embeddings"]], [folders["towers"]], None, folders["stats"])
    return Inputs(*inputs), folders["pairs"], tmp_path


def rows_by_mode(path):
    found = {}
    for row in pq.read_table(path).to_pylist():
        key = row["calibration"]
        found.setdefault(key, {}).setdefault((row["task"], row["pool"], row["query_id"]), []).append(row)
    return found


@pytest.mark.parametrize("k", [3, 100])
def test_the_first_k_are_ranked_by_the_network_and_the_rest_keep_their_places(stage, k):
    inputs, pairs, folder = stage
    fit_reranker(inputs, pairs, k, folder / "reranker")
    rerank(inputs, [folder / "reranker"], folder / "out.parquet")
    before, after = rows_by_mode(inputs[0]), rows_by_mode(folder / "out.parquet")
    assert {mode: after[mode] for mode in before} == before
    assert after[RERANK].keys() == before[FIRST_STAGE].keys()
    for key, old in before[FIRST_STAGE].items():
        old_ids, new = [row["candidate_id"] for row in old], after[RERANK][key]
        new_ids, scores = [row["candidate_id"] for row in new], [row["score"] for row in new]
        assert sorted(new_ids[:k]) == sorted(old_ids[:k])  # with k as large as the pool: all of it, exhaustively
        assert new_ids[k:] == old_ids[k:]
        assert scores == sorted(scores, reverse=True)
        assert [row["rank"] for row in new] == list(range(1, len(new) + 1))
    assert any(
        [r["candidate_id"] for r in after[RERANK][key]] != [r["candidate_id"] for r in old]
        for key, old in before[FIRST_STAGE].items()
    )


def test_a_perfect_network_reaches_what_the_first_stage_found_within_k(stage):
    inputs, _, _ = stage
    bench = read_benchmark(inputs[1])
    for k in (1, 2, 4):
        for lists in Lists(bench, k).of_run(inputs[0], 0):
            (task,) = (t for t in bench.tasks if t.name == lists.ranking.task)
            good = [bench.qrels[task.name].get(query, {}) for query in bench.queries(task)]
            flat = [c in own for own, row in zip(good, lists.ranking.candidates, strict=True) for c in row[:k]]
            candidates, _ = again(lists, np.array(flat, np.float32))
            for own, old, new in zip(good, lists.ranking.candidates, candidates, strict=True):
                assert (new[0] in own) == any(c in own for c in old[:k])


def test_equal_scores_keep_the_first_stage_s_order(stage):
    inputs, _, folder = stage
    about = {"kind": RERANK, "k": 5, "features": NAMES}
    for name, content in (("words.json", {"texts": 0, "counts": {}}), ("reranker.json", about)):
        (folder / "flat/seed0").mkdir(parents=True, exist_ok=True)
        (folder / "flat/seed0" / name).write_text(json.dumps(content))
    np.savez(folder / "flat/seed0/tower_means.npz", image=np.zeros(4, np.float32), text=np.zeros(4, np.float32))
    zeros = np.zeros((2, len(NAMES)), np.float32)
    head_graph(zeros, np.zeros(2, np.float32), np.zeros((1, 2), np.float32), folder / "flat/seed0/reranker.onnx")
    rerank(inputs, [folder / "flat"], folder / "out.parquet")
    after = rows_by_mode(folder / "out.parquet")
    for key, old in after[FIRST_STAGE].items():
        assert [r["candidate_id"] for r in after[RERANK][key]] == [r["candidate_id"] for r in old]
    (folder / "flat/seed0/reranker.json").write_text(json.dumps(about | {"features": ["score"]}))
    with pytest.raises(UserError, match="takes the features score, expected score, image image"):
        rerank(inputs, [folder / "flat"], folder / "again.parquet")


def test_a_run_without_the_first_stage_is_refused(stage):
    inputs, pairs, folder = stage
    table = pq.read_table(inputs[0])
    keep = [mode == "none" for mode in table["calibration"].to_pylist()]
    with pq.ParquetWriter(folder / "plain.parquet", table.schema) as writer:
        first = table.filter(pa.array(keep))
        starts = [i for i, row in enumerate(first.to_pylist()) if row["rank"] == 1 and row["query_id"] == "q0"]
        for start, stop in zip(starts, [*starts[1:], len(first)], strict=True):
            writer.write_table(first.slice(start, stop - start))
    with pytest.raises(UserError, match="no ranking with calibration center_zscore by seed 0"):
        fit_reranker(inputs._replace(run_file=folder / "plain.parquet"), pairs, 5, folder / "reranker")


def test_what_is_broken_or_done_twice_is_refused(stage):
    inputs, pairs, folder = stage
    for k in (0, -1):
        with pytest.raises(UserError, match=f"k is {k}, expected 1 or more candidates"):
            fit_reranker(inputs, pairs, k, folder / "reranker")
    fit_reranker(inputs, pairs, 100, folder / "reranker")
    rerank(inputs, [folder / "reranker"], folder / "again.parquet")
    with pytest.raises(UserError, match="is ranked again already; give the run that `retrieve` wrote"):
        rerank(inputs._replace(run_file=folder / "again.parquet"), [folder / "reranker"], folder / "out.parquet")
    (folder / "cut.parquet").write_bytes(inputs.run_file.read_bytes()[:500])
    for name, said in (("cut.parquet", "Parquet"), ("nowhere.parquet", "does not exist")):
        with pytest.raises(UserError, match=rf"{name}.*{said}.*`retrieve`"):
            rerank(inputs._replace(run_file=folder / name), [folder / "reranker"], folder / "out.parquet")
    (folder / "reranker/seed0/tower_means.npz").unlink()
    with pytest.raises(UserError, match="tower_means.npz.*`fit_reranker`"):
        rerank(inputs, [folder / "reranker"], folder / "out.parquet")
    assert not (folder / "out.parquet").exists()
