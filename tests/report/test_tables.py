import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from gcl.common.errors import UserError
from gcl.common.markup import latex
from gcl.common.rows import load_yaml
from gcl.config.published import Published, chosen, read_published
from gcl.data.items import Task
from gcl.report.tables import full_table, measure_table
from gcl.score.statistics import (
    Result,
    ResultKey,
    averages,
    difference,
    of_seeds,
    read_result,
    summarise,
    weighted_results,
)
from support.workflow import ROOT


def tasks():
    """Two data sets, one with two tasks; groups overlap."""
    pools = {"local": ["p"], "global": ["p"]}
    made = [
        Task("a_task0", "text", "image", "q", pools, dataset="a", groups=("x",)),
        Task("a_task3", "image", "text", "q", pools, dataset="a", groups=("x", "y")),
        Task("b_task0", "text", "image", "q", {"local": ["p"]}, dataset="b", groups=("y",)),
    ]
    return made


def test_a_data_set_counts_once_and_groups_have_means_of_their_own():
    found = averages(tasks(), "local")
    assert found["mean"] == pytest.approx(dict.fromkeys(("a_task0", "a_task3", "b_task0"), 1 / 3))
    assert found["data sets"] == {"a_task0": 0.25, "a_task3": 0.25, "b_task0": 0.5}
    assert found["x"] == {"a_task0": 0.5, "a_task3": 0.5}
    assert found["y"] == {"a_task3": 0.5, "b_task0": 0.5}
    assert set(averages(tasks(), "global")["mean"]) == {"a_task0", "a_task3"}


def test_a_mean_of_tasks_weighs_tasks_not_queries():
    rng = np.random.default_rng(0)
    sizes = {"a_task0": 3, "a_task3": 3, "b_task0": 200}
    values = {ResultKey(t, "local", "none"): rng.integers(0, 2, (2, n)).astype(np.float32) for t, n in sizes.items()}
    weights = averages(tasks(), "local")["data sets"]
    found = summarise(weighted_results(Result("b", "r", [0, 1], values), weights, "local", "none"), 500)
    by_task = {key.task: array.mean(1, dtype=np.float64) for key, array in values.items()}
    by_seed = 100 * ((by_task["a_task0"] + by_task["a_task3"]) / 2 + by_task["b_task0"]) / 2
    assert found.mean == pytest.approx(by_seed.mean())
    assert found.deviation == pytest.approx(by_seed.std(ddof=1))
    assert found.low <= found.mean <= found.high


def test_published_rows_stand_below_ours_and_second_hand_ones_are_marked():
    values = {ResultKey(t.name, "local", "none"): np.ones((1, 2), np.float32) for t in tasks()}
    summary = summarise(
        weighted_results(Result("b", "r", [0], values), averages(tasks(), "local")["mean"], "local", "none"), 10
    )
    row = {"backbone": "b", "recipe": "r", "calibration": "none", "pool": "local", "protocol": "prompts first"}
    row |= {"fusion": "sum_raw", "queries": "2", "summaries": {"mean": summary, "a_task0": summary}}
    other = Published(
        benchmark="m", pool="local", model="X", protocol="tuned", source="s", second_hand=True, values={"mean": 12.34}
    )
    header, body = full_table([row], "local", [other])
    assert header == ["recipe", "protocol", "fusion", "queries", "mean [95 % CI]", "a_task0"]
    assert body[0] == ["r", "prompts first, calibration none", "sum_raw", "2", "100.0 [100.0, 100.0]", "100.0"]
    assert body[1] == ["X †", "tuned", "–", "–", "12.3", ""]
    assert r"X $\dagger$ & tuned" in latex(header, body)


def test_means_by_measure_come_from_scores_and_take_published_ones_of_that_measure():
    def line(task, seed, measure, value):
        return ["b", "r", seed, "m", task, "local", "none", measure, value, "0", "1", "9"]

    lines = [line(t, s, "Success@50", v) for t, s, v in (("a_task0", "0", "1.0"), ("a_task0", "1", "0.5"), ("b_task0", "0", "0.0"), ("b_task0", "1", "0.5"))]  # fmt: skip
    other = Published(
        benchmark="m", pool="local", measure="Success@50", model="X", protocol="p", source="s", values={"mean": 21.9}
    )
    header, body = measure_table(lines, {"m": ""}, {"a_task0": 0.5, "b_task0": 0.5}, "local", ["Success@50"], [other])
    assert header == ["recipe", "protocol", "Success@50"]
    assert body == [["b r", "calibration none", "50.0"], ["X", "p", "21.9"]]


def test_every_published_row_fits_a_table():
    benchmarks = load_yaml(ROOT / "config/benchmarks.yaml")
    rows = read_published(ROOT / "config/published.yaml")
    assert len(rows) > 40
    pools = {"mbeir": {"local", "global"}, "mmeb": {"official", "mixed"}, "covr": {"all"}, "cirr": {"split"}}
    pools |= {"mixbench": {"local"}, "m2kr": {"local"}, "mmdocir": {"document"}, "tiir": {"all"}}
    for row in rows:
        facts = benchmarks[row.benchmark]["tasks"]
        groups = {group for task in facts.values() for group in task.get("groups", [])}
        assert row.values.keys() <= {"mean", "data sets", *facts, *groups}
        assert row.pool in pools[row.benchmark]
        assert row.measure is None or row.measure in benchmarks[row.benchmark]["measures"]
    local = [row for row in chosen(rows, "mbeir", "local") if len(row.values) == 17]
    for row in local:  # a printed average is the mean of the printed tasks
        assert np.mean([v for k, v in row.values.items() if k != "mean"]) == pytest.approx(row.values["mean"], abs=0.06)
    tasks = benchmarks["mmeb"]["tasks"]
    means = 0
    for row in chosen(rows, "mmeb", "official"):
        for group in ("Classification", "Retrieval"):
            members = [name for name, facts in tasks.items() if group in facts["groups"]]
            if row.values.keys() >= set(members):
                assert np.mean([row.values[name] for name in members]) == pytest.approx(row.values[group], abs=0.06)
                means += 1
    assert means == 4


def test_an_unknown_key_of_a_published_row_is_named(tmp_path):
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump([{"benchmark": "m", "pool": "local", "modell": "X"}]))
    with pytest.raises(ValueError, match=r"published\.yaml: row 1: unknown key 'modell'"):
        read_published(path)


def test_latex_reads_nothing_of_a_cell_as_a_command():
    assert latex(["a", "b", "c"], [[r"a_b%&#${}", "~^\\", "i→t ± 1 †"]]).splitlines()[4] == (
        r"a\_b\%\&\#\$\{\} & \textasciitilde{}\textasciicircum{}\textbackslash{} & i$\to$t $\pm$ 1 $\dagger$ \\"
    )


def written_scores(folder, seeds):
    """queries.parquet with the value of each seed's one query equal to a tenth of the seed, in the order given."""
    folder.mkdir()
    rows = {"seed": seeds, "task": ["t"] * len(seeds), "pool": ["p"] * len(seeds), "calibration": ["none"] * len(seeds)}
    columns = {name: pa.array(values).dictionary_encode() for name, values in rows.items()}
    pq.write_table(pa.table(columns | {"Success@1": np.array(seeds, np.float32) / 10}), folder / "queries.parquet")
    return read_result(folder, "b", "r", {"t": "Success@1"})


def test_seeds_are_matched_by_their_number(tmp_path):
    """Folders sort as text: seed10 comes before seed2."""
    key = ResultKey("t", "p", "none")
    a, b = written_scores(tmp_path / "a", [0, 10, 2]), written_scores(tmp_path / "b", [2, 10])
    assert a.seeds == [0, 2, 10]
    np.testing.assert_allclose(a.values[key], [[0.0], [0.2], [1.0]], atol=1e-6)
    np.testing.assert_allclose(of_seeds(a, [2, 10]).values[key], b.values[key])
    assert difference(*([(1.0, r.values[key])] for r in (of_seeds(a, b.seeds), b)), 10).mean == 0
    with pytest.raises(UserError, match=r"shapes \[\[\(3, 1\)\], \[\(2, 1\)\]\] can't be paired"):
        difference([(1.0, a.values[key])], [(1.0, b.values[key])], 10)
