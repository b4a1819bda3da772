"""Pages ranked by what is on them too, against slow loops and through the stages."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from gcl.common.errors import UserError
from gcl.common.rows import load_yaml
from gcl.config.project import load
from gcl.infer.infer import infer
from gcl.prepare.prepare import prepare_benchmark, prepare_pairs
from gcl.rerank.blend_levels import blend_levels, blended
from gcl.retrieve.retrieve import retrieve
from gcl.retrieve.run_file import rankings
from gcl.score.score import score
from support.document_fixtures import mmdocir
from support.training import exported
from support.workflow import ROOT


def z_by_hand(values):
    mean = sum(values) / len(values)
    deviation = (sum((x - mean) ** 2 for x in values) / len(values)) ** 0.5
    return [(x - mean) / (deviation or 1) for x in values]


def by_hand(own, children, parent_of, weight):
    best = {}
    for child, value in children.items():
        parent = parent_of[child]
        best[parent] = max(value, best.get(parent, -np.inf))
    names = list(own) + [name for name in best if name not in own]
    total = dict.fromkeys(names, 0.0)
    for level, share in ((own, 1 - weight), (best, weight)):
        if level:
            values = z_by_hand([level.get(name, min(level.values())) for name in names])
            for name, value in zip(names, values, strict=True):
                total[name] += share * value
    return total


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_scores_are_those_of_a_loop(rng, weight):
    for _ in range(50):
        parents = [f"p{k}" for k in range(int(rng.integers(2, 8)))]
        parent_of = {f"c{k}": str(rng.choice(parents)) for k in range(12)}

        def ranked(names, most):
            chosen = rng.permutation(names)[: int(rng.integers(1, most + 1))]
            values = np.sort(rng.integers(0, 5, len(chosen)) / 4)[::-1]
            return dict(zip(chosen.tolist(), values.tolist(), strict=True))

        own, children = ranked(parents, len(parents)), ranked(list(parent_of), 12)
        names, found = blended(own, children, parent_of, weight)
        expected = by_hand(own, children, parent_of, weight)
        assert set(names) == set(expected)
        np.testing.assert_allclose(found, [expected[name] for name in names], atol=1e-5)
        assert (np.diff(found) <= 0).all()


def test_a_weight_of_nought_keeps_the_order_and_one_is_the_children_alone():
    own, children = {"a": 0.9, "b": 0.5, "c": 0.1}, {"y": 0.8, "x": 0.7, "z": 0.2}
    parent_of = {"x": "a", "y": "c", "z": "b"}
    assert blended(own, children, parent_of, 0.0)[0] == ["a", "b", "c"]
    assert blended(own, children, parent_of, 1.0)[0] == ["c", "a", "b"]
    assert blended({"a": 0.9}, {"y": 0.8}, parent_of, 0.5)[0] == ["a", "c"]  # a tie of halves: the own list leads


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The fixture, ranked at both levels by a tiny model."""
    folder = tmp_path_factory.mktemp("levels")
    rows = load(load_yaml(ROOT / "config/config.yaml"), ROOT / "config").benchmarks
    mmdocir(folder / "data")
    prepare_benchmark(folder / "data", folder / "data", rows["mmdocir_fixture"], None, 1, folder / "p")
    prepare_pairs(ROOT / "data/openclipart", "pictures", 0.0, 30, folder / "pairs")
    (folder / "model").mkdir()
    model = exported("clip", folder / "model", folder / "pairs")
    infer(model, folder / "p", None, "cpu", 1, False, False, (0, 1), folder / "e")
    path = folder / "run.parquet"
    retrieve(folder / "p", [folder / "e"], None, model, None, ["none"], 9, "cpu", None, path)
    return folder, path


def test_through_the_stages(run, tmp_path):
    folder, path = run
    blend_levels(path, folder / "p", "page", "layout", 0.5, tmp_path / "pages.parquet")
    first = pq.ParquetFile(path).read_row_group(0).to_pylist()
    asked = list(dict.fromkeys(row["query_id"] for row in first))
    queries = {"page": asked, "layout": asked}
    before = {(r.task, r.pool): r for r in rankings(path, queries)}
    after = {(r.task, r.pool): r for r in rankings(tmp_path / "pages.parquet", queries)}
    assert set(after) == {("page", "document"), ("page", "all")}
    parents = {r["item_id"]: r["parent_id"] for r in pq.read_table(folder / "p/parents.parquet").to_pylist()}
    assert parents["a.pdf/layout2"] == "a.pdf/page1"
    for (_, pool), found in after.items():
        for place, names in enumerate(found.candidates):
            own, children = (
                dict(zip(before[task, pool].candidates[place], before[task, pool].scores[place], strict=True))
                for task in ("page", "layout")
            )
            expected = by_hand(own, children, parents, 0.5)
            np.testing.assert_allclose(found.scores[place], [expected[name] for name in names], atol=1e-4)
            if pool == "document":
                assert {name.split("/")[0] for name in names} == {found_document(queries["page"][place])}
    score(tmp_path / "pages.parquet", folder / "p", "x", "x", "x", ["R@1", "R@3"], 10, tmp_path / "scores")
    assert (tmp_path / "scores/scores.csv").read_text().count("page,") == 4


def found_document(query):
    return query.split("/")[0]


@pytest.mark.parametrize(
    ("parents", "children", "weight", "said"),
    [
        ("page", "layout", 1.5, "--weight 1.5: expected 0"),
        ("pages", "layout", 0.5, "unknown task 'pages'"),
        ("layout", "page", 0.5, "names no parent of 'page'"),
    ],
)
def test_what_can_not_be_blended_is_named(run, tmp_path, parents, children, weight, said):
    folder, path = run
    with pytest.raises(UserError, match=said):
        blend_levels(path, folder / "p", parents, children, weight, tmp_path / "out.parquet")
