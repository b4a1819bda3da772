"""One's own pairs as a benchmark: what is held out, which tasks there are, and what counts as found."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gcl.common.errors import UserError
from gcl.config.benchmarks import Benchmark
from gcl.data.images import open_image
from gcl.data.prepared import read_benchmark
from gcl.data.records import Pair, read_parquet
from gcl.prepare.benchmarks.own import Options, second_view
from gcl.prepare.hold_out import HELD_OUT, groups, hold_out
from gcl.prepare.prepare import prepare_benchmark, prepare_pairs


def named(n, captions=None):
    pairs = [Pair(f"p{k}", f"{k}.png", (captions[k] if captions else f"caption {k}",)) for k in range(n)]
    return pairs, {f"{k}.png": f"{k:064x}" for k in range(n)}


def test_the_choice_depends_on_content_alone_and_grows_with_the_data():
    pairs, digests = named(1000)
    training, out = hold_out(pairs, digests, 0.1, 10)
    assert len(out) == 100
    assert sorted([*training, *out]) == sorted(pairs)
    shuffled = [pairs[row] for row in np.random.default_rng(0).permutation(1000)]
    assert set(hold_out(shuffled, digests, 0.1, 10)[1]) == set(out)
    more, of_more = named(1500)
    kept = set(hold_out(more, of_more, 0.1, 10)[1]) & set(out)
    assert len(kept) > 80  # the threshold moves a little: hardly one is drawn anew


def test_at_least_so_many_and_at_most_half():
    pairs, digests = named(300)
    assert len(hold_out(pairs, digests, 0.1, 100)[1]) == 100
    with pytest.raises(UserError, match=r"150 pairs, of which 100 are to be held out.*lower `least`"):
        hold_out(pairs[:150], digests, 0.1, 100)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abcdefghij")), min_size=1, max_size=30))
def test_groups_are_the_connected_pairs(keys):
    images, captions = zip(*keys, strict=True)
    found = groups(images, captions)
    assert sorted(row for rows in found for row in rows) == list(range(len(keys)))
    label = {row: number for number, rows in enumerate(found) for row in rows}
    linked = [{r for r, (i, c) in enumerate(keys) if i == image or c == caption} for image, caption in keys]
    for row in range(len(keys)):  # by breadth-first search
        seen, queue = {row}, [row]
        while queue:
            queue += (fresh := linked[queue.pop()] - seen)
            seen |= fresh
        assert seen == {other for other in label if label[other] == label[row]}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=40, max_size=60))
def test_what_is_held_out_shares_nothing_with_what_trains(captions):
    pairs, digests = named(len(captions), captions)
    training, out = hold_out(pairs, digests, 0.2, 3)
    assert not {p.texts[0] for p in training} & {p.texts[0] for p in out}
    assert len(out) <= max(3, round(0.2 * len(pairs)))


def test_a_second_view_holds_and_is_held_by_nothing():
    assert second_view(["A red cat. cat, animal", "A red cat", "cat, animal"]) == ("A red cat", "cat, animal")
    assert second_view(["one"]) is None
    assert second_view(["One two", "one"]) is None


ROW = {
    "reader": "own", "split": "held_out", "title": "own pairs", "measures": ["Success@1"], "headline": "Success@1"
}  # fmt: skip


def made(folder, captions, n=40, **options):
    """Prepare n pairs and the benchmark of those held out."""
    data = folder / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    for k in range(n):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(data / f"{k:02}.png")
        (data / f"{k:02}.json").write_text(json.dumps({"caption": captions(k)}))
    held = Options(**{"share": 0.2, "least": 5} | options)
    prepare_pairs(data, "auto", 0.0, None, folder / "pairs", held)
    row = Benchmark(**ROW, options={"share": 0.2, "least": 5} | options)
    out = folder / "pairs" / HELD_OUT
    prepare_benchmark(out, out, row, None, 2, folder / "own")
    return read_benchmark(folder / "own")


def test_one_caption_and_no_crop_allow_two_tasks(tmp_path):
    bench = made(tmp_path, lambda k: f"caption {k}", crop=False)
    assert [task.name for task in bench.tasks] == ["i_t", "t_i"]
    assert {name: len(table.ids) for name, table in bench.tables.items()} == {
        "query_image": 8, "query_text": 8, "pool_text": 8, "pool_image": 8
    }  # fmt: skip
    for task in bench.tasks:
        for query in bench.queries(task):
            name = query.partition(":")[2]
            assert bench.qrels[task.name][query] == {f"{task.candidate_modality[0]}:{name}": 1}
            assert bench.excluded[task.name][query] == {f"{task.query_modality[0]}:{name}"}  # its own content


def test_a_crop_allows_images_and_a_second_caption_all_nine(tmp_path):
    (tmp_path / "a").mkdir()
    one = made(tmp_path / "a", lambda k: f"caption {k}")
    assert [task.name for task in one.tasks] == ["i_i", "i_t", "i_it", "t_i", "it_i"]
    assert all(len(found) == 2 for found in one.excluded["t_i"].values())  # its own text, alone and with the image
    (tmp_path / "b").mkdir()
    both = made(tmp_path / "b", lambda k: [f"number {k}", f"a picture of {k}"])
    assert len(both.tasks) == 9
    assert not any(both.excluded.values())
    texts = read_parquet(tmp_path / "b/own/texts.parquet")["text"].to_pylist()
    assert {texts[row].split()[0] for row in both.tables["query_text"].text_rows} == {"number"}
    assert {texts[row].split()[0] for row in both.tables["pool_text"].text_rows} == {"a"}


def test_nothing_that_is_measured_was_trained_on(tmp_path):
    made(tmp_path, lambda k: f"caption {k // 2}")
    training = {column: set(read_parquet(tmp_path / f"pairs/{name}.parquet")[column].to_pylist())
                for name, column in (("images", "sha256"), ("texts", "text"))}  # fmt: skip
    out = tmp_path / "pairs" / HELD_OUT
    assert not training["sha256"] & set(read_parquet(out / "images.parquet")["sha256"].to_pylist())
    assert not training["text"] & set(read_parquet(out / "texts.parquet")["text"].to_pylist())


def test_pictures_of_one_caption_are_one_query_with_as_many_answers(tmp_path):
    bench = made(tmp_path, lambda k: f"Caption  {k // 2}" if k % 2 else f"caption {k // 2}", crop=False)
    assert len(bench.queries(bench.tasks[0])) == 4
    (t_i,) = (task for task in bench.tasks if task.name == "t_i")
    assert {len(found) for found in bench.qrels["t_i"].values()} == {2}
    assert len(bench.pool_ids(t_i, "local")) == 8


def test_a_query_sees_a_part_of_its_image(tmp_path):
    bench = made(tmp_path, lambda k: f"caption {k}")
    locations = read_parquet(tmp_path / "own/locations.parquet")["location"].to_pylist()
    rows = {name: bench.tables[f"{name}_image"].image_rows.flatten().to_pylist() for name in ("query", "pool")}
    assert not set(rows["query"]) & set(rows["pool"])
    for query, candidate in zip(rows["query"], rows["pool"], strict=True):
        part, whole = open_image(locations[query]), np.asarray(open_image(locations[candidate]))
        assert part.size == (12, 8)
        left, top = (int(n) for n in locations[query].rpartition("::part/")[2].split("/")[:2])
        x, y = round(left * 0.3), round(top * 0.2)
        np.testing.assert_array_equal(np.asarray(part), whole[y : y + 8, x : x + 12])


def beir(folder, corpus, queries, qrels):
    folder.mkdir(exist_ok=True)
    (folder / "qrels").mkdir(exist_ok=True)
    for name, records in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, line)) for line in qrels)]
    (folder / "qrels/test.tsv").write_text("\n".join(lines) + "\n")
    row = Benchmark(**ROW | {"reader": "beir", "split": "test", "title": "BEIR", "dataset": "x"})
    prepare_benchmark(folder, folder, row, None, 1, folder / "out")
    return read_benchmark(folder / "out")


CORPUS = [{"_id": "d1", "title": "Cats", "text": "They purr."}, {"_id": "d2", "text": "Dogs bark."}]


def test_beir_s_layout_is_read_as_by_its_loader(tmp_path):
    queries = [{"_id": "q1", "text": "what purrs"}, {"_id": "d2", "text": "barking"}, {"_id": "q9", "text": "unused"}]
    bench = beir(tmp_path, CORPUS, queries, [("q1", "d1", 2), ("q1", "d2", 0), ("d2", "d1", 1)])
    (task,) = bench.tasks
    assert (task.name, list(task.pools)) == ("t_t", ["local", "global"])
    assert bench.queries(task) == ["q1", "d2"]
    assert bench.qrels["t_t"] == {"q1": {"d1": 2}, "d2": {"d1": 1}}
    assert bench.excluded["t_t"] == {"d2": {"d2"}}
    assert read_parquet(tmp_path / "out/texts.parquet")["text"].to_pylist()[:2] == ["Cats They purr.", "Dogs bark."]


def test_images_in_beir_s_layout_make_tasks_of_their_modalities(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    corpus = [*CORPUS, {"_id": "d3", "image": "x.png"}, {"_id": "d4", "image": "x.png", "text": "a black square"}]
    queries = [{"_id": "q1", "text": "a square"}, {"_id": "q2", "image": "x.png"}]
    bench = beir(tmp_path, corpus, queries, [("q1", "d3", 1), ("q1", "d4", 1), ("q2", "d1", 1)])
    assert [task.name for task in bench.tasks] == ["i_t", "t_i", "t_it"]
    assert {task.name: bench.queries(task) for task in bench.tasks} == {"i_t": ["q2"], "t_i": ["q1"], "t_it": ["q1"]}
    assert all(len(bench.pool_ids(task, "global")) == 4 for task in bench.tasks)


@pytest.mark.parametrize(
    ("corpus", "queries", "qrels", "message"),
    [
        ([{"text": "x"}], [], [], r"corpus\.jsonl:1: '_id' is None"),
        ([{"_id": "d"}], [], [], r"corpus\.jsonl:1: 'd' has neither text nor image"),
        ([CORPUS[0], CORPUS[0]], [], [], "id 'd1' occurs twice"),
        ([{"_id": "d", "image": "../x.png"}], [], [], "leaves the folder of images"),
        (CORPUS, [{"_id": "q", "text": "x"}], [("q", "d9", 1)], "candidate 'd9' is in neither"),
        (
            CORPUS,
            [{"_id": "q", "text": "x"}],
            [("q", "d1", "²")],
            r"test\.tsv:2: .*expected a query, a candidate",
        ),
        (CORPUS, [{"_id": "q", "text": "x"}], [("q", "d1", 1), ("q", "d1", 2)], "have score 1 before"),
        (CORPUS, [{"_id": "q", "text": "x"}], [("q", "d1", 0)], "holds no relevant candidate"),
    ],
)
def test_bad_records_in_beir_s_layout_are_named(tmp_path, corpus, queries, qrels, message):
    with pytest.raises(UserError, match=message):
        beir(tmp_path, corpus, queries, qrels)
