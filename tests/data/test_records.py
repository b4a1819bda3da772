import pytest

from gcl.data.items import Item, Qrel, write_benchmark
from gcl.data.prepared import read_benchmark
from gcl.data.records import read_parquet
from support.arrays import SAME


def test_a_benchmark_survives_the_disk(tmp_path, toy_benchmark):
    write_benchmark(tmp_path, toy_benchmark, {"title": "toy"}, SAME)
    back = read_benchmark(tmp_path)
    assert back.tasks == toy_benchmark.tasks
    assert back.tables["pool_image"].image_rows.to_pylist() == [[0], [1], [2], [2]]  # equal images share a row
    assert back.tables["pool_image"].text_rows.tolist() == [-1] * 4
    assert back.qrels["t_i"] == {"q0": {"i0": 1, "i1": 1}, "q1": {"i2": 1}}
    assert back.about == {"title": "toy"}


def test_a_duplicate_id_is_named(tmp_path, toy_benchmark):
    toy_benchmark.tables["pool_text"].append(Item("t1", "again", ()))
    with pytest.raises(ValueError, match="id 't1' occurs twice in table 'pool_text'"):
        write_benchmark(tmp_path, toy_benchmark, {}, SAME)


@pytest.mark.parametrize(("query", "candidate", "named"), [("q9", "i0", "query 'q9'"), ("q0", "i9", "candidate 'i9'")])
def test_a_qrel_that_points_nowhere_is_named(tmp_path, toy_benchmark, query, candidate, named):
    toy_benchmark.qrels.append(Qrel("t_i", query, candidate))
    with pytest.raises(ValueError, match=named):
        write_benchmark(tmp_path, toy_benchmark, {}, SAME)


def test_an_empty_pool_is_refused(tmp_path, toy_benchmark):
    toy_benchmark.tables["pool_image"] = []
    with pytest.raises(ValueError, match="table 'pool_image' is empty"):
        write_benchmark(tmp_path, toy_benchmark, {}, SAME)


@pytest.mark.parametrize("content", [b"", b"PAR1 but no more"])
def test_a_broken_parquet_is_named_with_its_size(tmp_path, content):
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.parquet \({len(content)} bytes\) as Parquet"):
        read_parquet(path)


def test_what_does_not_exist_is_not_called_broken(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist; run `prepare`"):
        read_benchmark(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"lacks a file \(.*task.json\); run `prepare`"):
        read_benchmark(tmp_path)
    with pytest.raises(ValueError, match=r"run.parquet does not exist; is the path right"):
        read_parquet(tmp_path / "run.parquet")
