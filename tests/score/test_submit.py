"""Files for evaluation servers."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcl.data.items import Contents, Item, Task, write_benchmark
from gcl.score.submit import submit
from support.arrays import SAME


def ranked(folder, tasks, candidates, missing=()):
    """Write a benchmark of two queries, and a run that ranks the candidates backwards in every pool."""
    (folder / "p").mkdir()
    tables = {
        "query": [Item(q, "change", ()) for q in ("7", "8")],
        "pool": [Item(c, None, (f"{c}.jpg",)) for c in candidates],
    }
    write_benchmark(folder / "p", Contents(tables, tasks, [], missing=missing), {}, SAME)
    found = []
    for task in tasks:
        for pool in task.pools:
            rows = [(0, task.name, pool, "none", q, c) for q in ("7", "8") for c in reversed(candidates)]
            names = ("seed", "task", "pool", "calibration", "query_id", "candidate_id")
            columns = {n: pa.array(v) for n, v in zip(names, zip(*rows, strict=True), strict=True)}
            columns["query_id"], columns["candidate_id"] = (
                columns[n].dictionary_encode() for n in ("query_id", "candidate_id")
            )
            ranks = list(range(1, len(candidates) + 1)) * 2
            found.append(pa.table(columns | {"rank": pa.array(ranks), "score": pa.array([-float(r) for r in ranks])}))
    with pq.ParquetWriter(folder / "run.parquet", found[0].schema) as writer:
        for table in found:
            writer.write_table(table)
    return folder / "run.parquet", folder / "p"


def test_cirr_gets_fifty_and_three_and_says_which_version(tmp_path):
    task = Task("cirr", "text", "image", "query", {"split": ["pool"], "subset": ["pool"]})
    names = [f"test1-{k}-0-img0" for k in range(60)]
    submit(*ranked(tmp_path, [task], names), "cirr", tmp_path / "out")
    recall, subset = (
        json.loads((tmp_path / f"out/{n}.none.seed0.json").read_text()) for n in ("recall", "recall_subset")
    )
    assert recall == {"version": "rc2", "metric": "recall"} | dict.fromkeys(("7", "8"), names[:-51:-1])
    assert subset == {"version": "rc2", "metric": "recall_subset"} | dict.fromkeys(("7", "8"), names[:-4:-1])


def test_circo_gets_numbers_of_the_task_with_all_right_images(tmp_path):
    tasks = [Task(name, "text", "image", "query", {"all": ["pool"]}) for name in ("circo", "circo_one")]
    submit(*ranked(tmp_path, tasks, ["501", "502", "503"]), "circo", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["circo.none.seed0.json"]
    found = json.loads((tmp_path / "out/circo.none.seed0.json").read_text())
    assert found == {"7": [503, 502, 501], "8": [503, 502, 501]}


def test_a_query_that_could_not_be_used_is_an_error(tmp_path):
    task = Task("cirr", "text", "image", "query", {"split": ["pool"]})
    files = ranked(tmp_path, [task], ["a", "b"], missing=[("cirr", "9")])
    with pytest.raises(ValueError, match=r"1 queries can't be used \(first: 9\), but the server wants all"):
        submit(*files, "cirr", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_benchmark_without_server_is_named(tmp_path):
    with pytest.raises(ValueError, match="reader 'mbeir' knows of no evaluation server"):
        submit(tmp_path / "run.parquet", tmp_path, "mbeir", tmp_path / "out")
