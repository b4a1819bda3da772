import csv

import numpy as np
import pytest

from gcl.data.items import write_benchmark
from gcl.retrieve.retrieve import retrieve
from gcl.retrieve.run_file import Ranking
from gcl.score.bootstrap import interval, resample_counts
from gcl.score.score import COLUMNS, decided_by_tie, score
from support.arrays import SAME, unit_rows
from support.retrieval import write_model


def scored(folder, toy, image, text, depth=100):
    """Run retrieve and score on given unit vectors; return the lines of scores.csv."""
    prepared, embeddings, onnx = folder / "p", folder / "e/seed0", folder / "o/seed0"
    prepared.mkdir(parents=True)
    write_benchmark(prepared, toy, {"measures": ["Success@1", "Success@2"]}, SAME)
    write_model(embeddings, onnx, image, text)
    retrieve(
        prepared, [embeddings.parent], None, onnx.parent, None, ["none"], depth, "cpu", None, folder / "run.parquet"
    )
    score(folder / "run.parquet", prepared, "b", "r", "toy", ["Success@1", "Success@2"], 100, folder / "s")
    with (folder / "s/scores.csv").open() as file:
        return list(csv.DictReader(file))


def test_success_counts_a_query_once_and_a_query_without_qrels_as_a_miss(tmp_path, toy_benchmark):
    # q0 has two relevant images and finds both; q1 finds its one second; q2 has none.
    image = np.eye(4, dtype=np.float32)[:3]
    text = np.zeros((7, 4), np.float32)
    text[0], text[1], text[2] = [0.8, 0.6, 0, 0], [0, 0.8, 0.6, 0], [1, 0, 0, 0]
    text[3:, 3] = 1
    rows = {(r["pool"], r["measure"]): r for r in scored(tmp_path, toy_benchmark, image, text)}
    assert tuple(rows["local", "Success@1"]) == COLUMNS
    assert float(rows["local", "Success@1"]["value"]) == pytest.approx(1 / 3, abs=1e-6)
    assert float(rows["local", "Success@2"]["value"]) == pytest.approx(2 / 3, abs=1e-6)
    assert rows["local", "Success@2"]["n"] == "3"


def test_equal_scores_rank_by_row_not_by_id(tmp_path, toy_benchmark):
    # All images tie for q1, whose relevant image is the third: no hit in the top 2. ir_measures alone
    # would prefer larger ids and find it.
    image = np.tile(np.array([1, 0, 0, 0], np.float32), (3, 1))
    text = np.tile(np.array([1, 0, 0, 0], np.float32), (7, 1))
    rows = {(r["pool"], r["measure"]): r for r in scored(tmp_path, toy_benchmark, image, text)}
    assert float(rows["local", "Success@2"]["value"]) == pytest.approx(1 / 3, abs=1e-6)  # q0 alone


@pytest.mark.parametrize("seed", range(20))
def test_success_equals_the_obvious_loop(tmp_path, toy_benchmark, seed):
    rng = np.random.default_rng(seed)
    image, text = unit_rows(rng, 3, 4), unit_rows(rng, 7, 4)
    rows = {(r["pool"], r["measure"]): float(r["value"]) for r in scored(tmp_path, toy_benchmark, image, text)}
    pools = {"local": [0, 1, 2, 2], "global": [0, 1, 2, 2, 3, 4, 5, 6]}
    vectors = np.concatenate([image, text[3:]])
    relevant = {0: {0, 1}, 1: {2}, 2: set()}  # positions in the pool
    for pool, members in pools.items():
        for k in (1, 2):
            hits = 0
            for q in range(3):
                order = sorted(range(len(members)), key=lambda c: (-float(vectors[members[c]] @ text[q]), c))
                hits += bool(relevant[q] & set(order[:k]))
            assert rows[pool, f"Success@{k}"] == pytest.approx(hits / 3, abs=1e-6)


def test_a_tie_decides_only_when_it_straddles_the_cutoff():
    ranking = Ranking(0, "t", "local", "none", [["a", "b", "c"]], [np.array([0.9, 0.5, 0.5], np.float32)])
    assert decided_by_tie(ranking, {"q": {"c": 1}}, ["q"], 2) == 1
    assert decided_by_tie(ranking, {"q": {"a": 1}}, ["q"], 2) == 0  # found above the tie
    assert decided_by_tie(ranking, {"q": {"b": 1, "c": 1}}, ["q"], 2) == 0  # either order hits
    assert decided_by_tie(ranking, {"q": {"c": 1}}, ["q"], 1) == 0  # no tie at 1


def test_a_broken_run_is_named(tmp_path, toy_benchmark):
    (tmp_path / "p").mkdir()
    write_benchmark(tmp_path / "p", toy_benchmark, {}, SAME)
    (tmp_path / "run.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match=r"can't read .*run\.parquet \(0 bytes\) as Parquet"):
        score(tmp_path / "run.parquet", tmp_path / "p", "b", "r", "toy", ["Success@1"], 10, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_run_of_other_queries_is_refused(tmp_path, toy_benchmark, rng):
    scored(tmp_path, toy_benchmark, unit_rows(rng, 3, 4), unit_rows(rng, 7, 4))
    tables, _, qrels, *_ = toy_benchmark
    tables["query_text"] = [q._replace(item_id=q.item_id + "x") for q in tables["query_text"]]
    (tmp_path / "other").mkdir()
    renamed = toy_benchmark._replace(qrels=[q._replace(query_id=q.query_id + "x") for q in qrels])
    write_benchmark(tmp_path / "other", renamed, {}, SAME)
    with pytest.raises(ValueError, match="ranks other queries"):
        score(tmp_path / "run.parquet", tmp_path / "other", "b", "r", "toy", ["Success@1"], 10, tmp_path / "s2")


def test_bootstrap_interval_is_that_of_the_resampled_means():
    values = np.array([[0.0], [1.0], [1.0], [0.0]], np.float32)
    counts = resample_counts(4, 2000)
    assert (counts.sum(1) == 4).all()
    means = [np.repeat(values[:, 0], row.astype(int)).mean() for row in counts]
    low, high = interval(values, counts)
    assert (low[0], high[0]) == pytest.approx((np.quantile(means, 0.025), np.quantile(means, 0.975)))
