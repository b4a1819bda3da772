"""Long searches in pieces: the same run, and what a kill costs."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from gcl.data.items import write_benchmark
from gcl.retrieve import task_ranker
from gcl.retrieve.calibration import fit, write_calibration
from gcl.retrieve.exact import Query
from gcl.retrieve.retrieve import retrieve
from gcl.retrieve.scan import pieces as module
from gcl.retrieve.scan.pieces import divided
from support.arrays import SAME, unit_rows
from support.retrieval import write_model

MODES = ["none", "center", "zscore", "center_zscore"]


class Killed(BaseException):
    """In place of a signal."""


@pytest.fixture
def run(tmp_path, toy_benchmark, rng):
    """A run of two seeds and four calibrations; return its rows and how often a pool was searched."""
    prepared, embeddings, onnx, stats = (tmp_path / name for name in ("prepared", "embeddings", "onnx", "stats"))
    for folder in (prepared, stats):
        folder.mkdir()
    write_benchmark(prepared, toy_benchmark, {"measures": ["Success@1"]}, SAME)
    for seed in range(2):
        outputs = unit_rows(rng, 3, 4), unit_rows(rng, 7, 4)
        write_model(embeddings / f"seed{seed}", onnx / f"seed{seed}", *outputs, seed=seed)
        image, text = unit_rows(rng, 9, 4) + 0.2, unit_rows(rng, 9, 4) - 0.1
        write_calibration(stats / f"seed{seed}.json", fit(image, text, "sum_raw"))

    def run(monkeypatch, last=None, depth=5):
        whole, searches = task_ranker.best_rows, []

        def counted(queries, *rest):
            searches.append(sum(len(query.vectors) for query in queries))
            if last is not None and len(searches) > last:
                raise Killed
            return whole(queries, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(task_ranker, "best_rows", counted)
            output = tmp_path / "out/run.parquet"
            output.unlink(missing_ok=True)
            try:
                retrieve(prepared, [embeddings], None, onnx, stats, MODES, depth, "cpu", None, output)
            except Killed:
                assert not output.exists()
                return None, searches
        assert [path.name for path in output.parent.iterdir()] == ["run.parquet"]
        return pq.read_table(output).to_pylist(), searches

    return run


@pytest.mark.parametrize("shared", [16384, 0], ids=["one calibration at a time", "those that share vectors at once"])
def test_a_killed_run_goes_on_to_the_same_rows(run, monkeypatch, shared):
    monkeypatch.setattr(task_ranker, "KEPT", shared)
    expected, once = run(monkeypatch)
    monkeypatch.setattr(module, "LONG", 1)
    monkeypatch.setattr(task_ranker, "QUERIES", 2)
    rows, searches = run(monkeypatch)
    assert rows == expected
    assert len(searches) > len(once)
    assert sum(searches) == sum(once)
    for last in (1, len(searches) - 1):
        run(monkeypatch, last)
        rows, rest = run(monkeypatch)
        assert rows == expected
        assert len(rest) == len(searches) - last  # what was done is not done again


def test_what_was_kept_for_another_run_is_not_taken(run, monkeypatch):
    expected, _ = run(monkeypatch, depth=3)
    monkeypatch.setattr(module, "LONG", 1)
    run(monkeypatch, last=3, depth=5)
    assert run(monkeypatch, depth=3)[0] == expected


def test_queries_with_the_same_vectors_stay_together(rng):
    vectors = [unit_rows(rng, n, 4) for n in (3, 2, 2, 7)]
    queries = [Query(v, *(np.full((len(v), 3), x) for x in (i, 0))) for v in vectors for i in (1, 2)]
    pieces = divided(queries, 5)
    assert [[len(query.vectors) for query in piece] for piece in pieces] == [[3, 3, 2, 2], [2, 2], [7, 7]]
    assert [id(query) for piece in pieces for query in piece] == [id(query) for query in queries]


def test_a_gpu_searches_for_all_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "LONG", 1)
    monkeypatch.setattr(module, "resolve", lambda _: "cuda")
    vectors = np.eye(4, dtype=np.float32)
    query = Query(vectors, np.ones((4, 3)), np.zeros((4, 3)))
    pool = task_ranker.Pool(4, vectors.__getitem__, np.zeros(4, np.int8))
    searches = []
    pieces = module.Pieces(tmp_path / "work", lambda: "key")
    pieces.search(lambda queries, *_: searches.append(len(queries)), [query, query], pool, 1, "auto")
    assert searches == [2]
    assert not (tmp_path / "work").exists()
