"""Rankings of random benchmarks against an obvious loop: pools, lists, exclusions, repeated items, calibrations."""

from itertools import product

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gcl.common.arrays import MODALITIES
from gcl.data.items import Contents, Excluded, Item, Listed, Task, write_benchmark
from gcl.retrieve import search, task_ranker
from gcl.retrieve.calibration import fit, write_calibration
from gcl.retrieve.retrieve import retrieve
from gcl.retrieve.scan import pruned
from gcl.retrieve.scan.pruned import scan_pool
from support.arrays import SAME, unit_rows
from support.retrieval import write_model

POOLS = {"local": ["images"], "all": ["images", "mixed"], "own": ["images", "mixed"]}


def some_items(rng, name, size, kinds):
    """Items of few contents, so that several are one; some have several images."""
    items = []
    for number in range(size):
        kind = kinds[rng.integers(len(kinds))]
        text = None if kind == "image" else f"text {rng.integers(4)}"
        count = 0 if kind == "text" else rng.choice([1, 1, 3])
        weights = (0.2, 0.5, 0.3) if count > 1 and rng.random() < 0.5 else ()
        items.append(
            Item(f"{name}{number}", text, tuple(f"{i}.png" for i in sorted(rng.permutation(4)[:count])), weights)
        )
    return items


def benchmark(rng):
    tables = {
        "queries": some_items(rng, "q", 5, MODALITIES),
        "images": some_items(rng, "i", 6, ["image"]),
        "mixed": some_items(rng, "m", 7, MODALITIES),
    }
    ids = [item.item_id for name in POOLS["all"] for item in tables[name]]
    lists, excluded = [], []
    for query in tables["queries"]:
        chosen = rng.permutation(ids)[: rng.integers(1, len(ids) + 1)].tolist()
        lists.append(Listed("t", "own", query.item_id, chosen))
        if rng.random() < 0.5:
            excluded.append(Excluded("t", query.item_id, rng.permutation(ids)[: rng.integers(1, 4)].tolist()))
    tasks = [
        Task("t", "image_text", "image", "queries", POOLS, ("own",)),
        Task("u", "image", "image", "queries", POOLS),
    ]
    return Contents(tables, tasks, [], lists, excluded)


def outputs(contents, image, text):
    """The rows that prepare gives to images and texts: in the order of their first use."""
    items = [item for table in contents.tables.values() for item in table]
    images = list(dict.fromkeys(location for item in items for location in item.images))
    texts = list(dict.fromkeys(item.text for item in items if item.text is not None))
    of_image = {location: image[row] for row, location in enumerate(images)}
    of_text = {sentence: text[row] for row, sentence in enumerate(texts)}
    return (image[: len(images)], text[: len(texts)]), of_image, of_text


def expected_ranking(contents, task, pool, query, vector_of, scales):
    """Every score, sorted; ties in the order of the pool or of the list."""
    candidates = [item for name in task.pools[pool] for item in contents.tables[name]]
    if pool in task.listed:
        by_id = {item.item_id: item for item in candidates}
        (listed,) = (x for x in contents.lists if (x.pool, x.query_id) == (pool, query.item_id))
        candidates = [by_id[item_id] for item_id in listed.candidate_ids]
    else:
        of_query = [x for x in contents.excluded if (x.task, x.query_id) == (task.name, query.item_id)]
        out = {item_id for x in of_query for item_id in x.candidate_ids}
        candidates = [item for item in candidates if item.item_id not in out]
    scores = []
    for item in candidates:
        mean, deviation = scales[f"{query.modality}>{item.modality}"]
        cosine = sum(float(a) * float(b) for a, b in zip(vector_of(query), vector_of(item), strict=True))
        scores.append(round((cosine - mean) / deviation, 6))
    order = sorted(range(len(candidates)), key=lambda place: (-scores[place], place))
    return [(candidates[place].item_id, scores[place]) for place in order]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), depth=st.sampled_from([1, 3, 50]))
@pytest.mark.parametrize("size", ["small", "large"])
def test_rankings_equal_the_obvious_loop(tmp_path_factory, monkeypatch, size, seed, depth):
    scans = []
    monkeypatch.setattr(pruned, "scan_pool", lambda *given: scans.append(given) or scan_pool(*given))
    if size == "large":  # as for pools whose vectors are not kept, which a scan searches
        monkeypatch.setattr(task_ranker, "KEPT", 0)
        for name in ("WORTH_A_SCAN", "WORTH_AN_IMPORT", "FEW", "SOME"):
            monkeypatch.setattr(search, name, 0)
    monkeypatch.setattr(task_ranker, "QUERIES", 2)
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("rankings")
    contents = benchmark(rng)
    # Images weigh more: an image and a text would tie for a query that is both.
    arrays, of_image, of_text = outputs(
        contents, rng.uniform(2, 4, (4, 1)).astype(np.float32) * unit_rows(rng, 4, 3), unit_rows(rng, 4, 3)
    )
    (folder / "prepared").mkdir()
    write_benchmark(folder / "prepared", contents, {"measures": ["Success@1"]}, SAME)
    write_model(folder / "embeddings", folder / "onnx", *arrays, seed=7)
    stats = fit(unit_rows(rng, 9, 3), unit_rows(rng, 9, 3), "sum_raw")
    write_calibration(folder / "stats.json", stats)
    model = [folder / "embeddings"], None, folder / "onnx", folder / "stats.json"
    retrieve(folder / "prepared", *model, ["none", "zscore"], depth, "cpu", None, folder / "run.parquet")
    written = pq.read_table(folder / "run.parquet").to_pylist()
    assert {row["seed"] for row in written} == {7}
    assert bool(scans) == (size == "large")

    def vector_of(item):
        parts = [] if item.text is None else [of_text[item.text]]
        if item.images:  # the weighted mean of unit vectors, at their mean length
            lengths = [np.linalg.norm(of_image[x]) for x in item.images]
            shares = item.weights or [1 / len(lengths)] * len(lengths)
            mean = sum(w * of_image[x] / n for w, x, n in zip(shares, item.images, lengths, strict=True))
            parts.append(mean * sum(lengths) / len(lengths))
        return sum(parts) / np.linalg.norm(sum(parts))

    plain = dict.fromkeys(stats.scales["none"], (0.0, 1.0))
    for (mode, scales), task in product({"none": plain, "zscore": stats.scales["none"]}.items(), contents.tasks):
        for pool, query in product(task.pools, contents.tables["queries"]):
            key = (task.name, pool, mode, query.item_id)
            rows = [r for r in written if (r["task"], r["pool"], r["calibration"], r["query_id"]) == key]
            rows.sort(key=lambda r: r["rank"])
            wanted = expected_ranking(contents, task, pool, query, vector_of, scales)[:depth]
            assert [r["rank"] for r in rows] == list(range(1, len(wanted) + 1))
            assert [r["candidate_id"] for r in rows] == [item_id for item_id, _ in wanted]
            np.testing.assert_allclose([r["score"] for r in rows], [score for _, score in wanted], atol=1e-4)
