"""What the scripts in benchmarks/ write is what the stages read; the scripts themselves take too long to run here."""

import pytest

from gcl.data.prepared import read_benchmark
from gcl.infer.infer import WHOLE, read_work
from gcl.retrieve.retrieve import retrieve
from gcl.score.score import score
from support.workflow import ROOT


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_a_random_pool_is_ranked_and_scored(tmp_path):
    from retrieval_memory import write_pool

    write_pool(tmp_path, 300, 4)
    prepared, run = tmp_path / "prepared", tmp_path / "run.parquet"
    retrieve(prepared, [tmp_path / "embeddings"], None, tmp_path / "onnx", None, ["none"], 10, "cpu", None, run)
    score(run, prepared, "x", "x", "x", ["Success@10"], 10, tmp_path / "scores")
    lines = (tmp_path / "scores/scores.csv").read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].endswith(",4")  # queries


def test_photos_and_captions_are_a_benchmark(tmp_path):
    from embedding import write_images, write_prepared

    write_prepared(tmp_path / "prepared", write_images(tmp_path / "images", 3, (64, 48)), 5)
    assert [task.name for task in read_benchmark(tmp_path / "prepared").tasks] == ["t"]
    work = read_work(tmp_path / "prepared", WHOLE, is_native=False)
    assert (work.own_images, work.texts) == (3, (0, 5))
