import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gcl.common.arrays import MODALITIES, read_array
from gcl.common.devices import has_cuda
from gcl.data.items import write_benchmark
from gcl.infer.store import rows_of
from gcl.retrieve import task_ranker
from gcl.retrieve.biases import BIASES, biases, equal_weights, write_bank
from gcl.retrieve.calibration import fit, write_calibration
from gcl.retrieve.exact import NO_ROW, best_k, from_keys, members_of, merged, to_keys, top_k
from gcl.retrieve.item_vectors import numbered
from gcl.retrieve.retrieve import retrieve
from gcl.retrieve.run_file import write_trec
from support.arrays import SAME, unit_rows
from support.retrieval import write_model


@settings(max_examples=200, deadline=None)
@given(
    scores=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 12)),
        elements=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]),
    ),
    k=st.integers(1, 15),
)
def test_top_k_is_a_stable_sort(scores, k):
    best, columns = top_k(scores, k)
    for row, got, where in zip(scores, best, columns, strict=True):
        expected = sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]
        assert where.tolist() == expected
        assert got.tolist() == row[expected].tolist()


def test_top_k_refuses_nan_and_zero():
    with pytest.raises(ValueError, match="NaN"):
        top_k(np.array([[0.0, np.nan]], np.float32), 1)
    with pytest.raises(ValueError, match="k is 0"):
        top_k(np.zeros((1, 2), np.float32), 0)


# A test of training before it in the same process makes numbers near zero zero, for good.
SCORES = st.floats(width=32, allow_nan=False, allow_subnormal=False) | st.sampled_from([0.0, -0.0, 0.5])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(SCORES, st.integers(0, NO_ROW - 1)), min_size=1, max_size=30))
def test_keys_are_in_the_order_of_rankings_and_lose_nothing(found):
    scores, rows = np.array([s for s, _ in found], np.float32), np.array([row for _, row in found], np.int64)
    keys = to_keys(scores, rows)
    again, same = from_keys(keys)
    assert again.tolist() == scores.tolist()
    assert same.tolist() == rows.tolist()
    order = sorted(range(len(found)), key=lambda i: (-found[i][0], found[i][1]))
    assert np.sort(keys).tolist() == keys[order].tolist()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-1.0, 0.0, 0.5, 2.0])), max_size=30),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_the_best_are_kept_in_one_go_and_in_two(found, k, random):
    found.sort(key=lambda pair: pair[0])
    rows = random.sample(range(100), len(found))
    queries, scores = np.array([q for q, _ in found], np.int64), np.array([s for _, s in found], np.float32)
    expected = [
        sorted(((-s, row) for (q, s), row in zip(found, rows, strict=True) if q == number))[:k] for number in range(4)
    ]
    whole = best_k(queries, scores, np.array(rows, np.int64), 4, k)
    first = np.array([row % 2 == 0 for row in rows], bool)
    halves = [best_k(queries[h], scores[h], np.array(rows, np.int64)[h], 4, k) for h in (first, ~first)]
    for best, chosen in (whole, merged(*halves[0], *halves[1], k)):
        for number, pairs in enumerate(expected):
            lacking = k - len(pairs)
            assert best[number].tolist() == [-s for s, _ in pairs] + [-np.inf] * lacking
            assert chosen[number].tolist() == [row for _, row in pairs] + [NO_ROW] * lacking


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-3, 6), min_size=1, max_size=20))
def test_codes_are_numbered_in_order_of_first_occurrence(codes):
    found, numbers = numbered(np.array(codes, np.int64))
    assert found.tolist() == list(dict.fromkeys(codes))
    assert found[numbers].tolist() == codes
    members = members_of(numbers, len(found))
    for group in range(len(found)):
        assert members.of(group).tolist() == [row for row, number in enumerate(numbers) if number == group]


@pytest.fixture
def ready(tmp_path, toy_benchmark, rng):
    """A prepared benchmark with random embeddings of one seed and a minimal export."""
    prepared, embeddings, onnx = tmp_path / "prepared", tmp_path / "embeddings", tmp_path / "onnx"
    prepared.mkdir()
    write_benchmark(prepared, toy_benchmark, {"measures": ["Success@1"]}, SAME)
    write_model(embeddings / "seed0", onnx / "seed0", unit_rows(rng, 3, 4), unit_rows(rng, 7, 4))
    return prepared, embeddings, onnx, tmp_path / "run.parquet"


def test_ranking_equals_the_obvious_loop(ready):
    prepared, embeddings, onnx, output = ready
    retrieve(prepared, [embeddings], None, onnx, None, ["none"], 100, "cpu", None, output)
    image, text = np.load(embeddings / "seed0/image.npy"), np.load(embeddings / "seed0/text.npy")
    # In order of first use texts 0..2 are the queries, 3..6 the text candidates; images 2 and 3 are one.
    pool = {"i0": image[0], "i1": image[1], "i2": image[2], "i3": image[2]} | {f"t{i}": text[3 + i] for i in range(4)}
    rows = [r for r in pq.read_table(output).to_pylist() if r["pool"] == "global"]
    for q in range(3):
        cosines = {c: float(text[q] @ v) for c, v in pool.items()}
        expected = sorted(pool, key=lambda c: (-round(cosines[c], 5), list(pool).index(c)))
        found = [r for r in rows if r["query_id"] == f"q{q}"]
        assert [r["candidate_id"] for r in found] == expected
        assert [r["rank"] for r in found] == list(range(1, 9))
        np.testing.assert_allclose([r["score"] for r in found], [cosines[c] for c in expected], rtol=1e-5)


def test_equal_items_tie_exactly_and_the_lower_row_wins(ready):
    prepared, embeddings, onnx, output = ready
    retrieve(prepared, [embeddings], None, onnx, None, ["none"], 100, "cpu", None, output)
    for query in ("q0", "q1", "q2"):
        rows = {
            r["candidate_id"]: r
            for r in pq.read_table(output).to_pylist()
            if r["query_id"] == query and r["pool"] == "local"
        }
        assert rows["i2"]["score"] == rows["i3"]["score"]
        assert rows["i3"]["rank"] == rows["i2"]["rank"] + 1


def test_one_model_without_seeds_ranks_as_its_seed(ready, tmp_path):
    prepared, embeddings, onnx, output = ready
    retrieve(prepared, [embeddings], None, onnx, None, ["none"], 5, "cpu", None, output)
    retrieve(
        prepared, [embeddings / "seed0"], None, onnx / "seed0", None, ["none"], 5, "cpu", None, tmp_path / "one.parquet"
    )
    assert pq.read_table(output).equals(pq.read_table(tmp_path / "one.parquet"))


def test_a_folder_without_embeddings_says_so(ready, tmp_path):
    prepared, _, onnx, output = ready
    with pytest.raises(ValueError, match="holds neither image.npy nor folders of seeds"):
        retrieve(prepared, [tmp_path], None, onnx, None, ["none"], 5, "cpu", None, output)


def test_trec_files_have_six_fields_and_falling_scores(ready, tmp_path):
    prepared, embeddings, onnx, output = ready
    retrieve(prepared, [embeddings], None, onnx, None, ["none"], 2, "cpu", tmp_path / "trec", output)
    path = tmp_path / "trec/run.t_i.global.none.seed0.trec"
    lines = [line.split() for line in path.read_text().splitlines()]
    assert len(lines) == 6
    assert all(len(line) == 6 and line[1] == "Q0" for line in lines)
    assert [line[3] for line in lines] == ["1", "2"] * 3


def test_white_space_in_ids_and_tags_leaves_six_fields(tmp_path):
    """FashionIQ has names with spaces; a run file may have one too. The library that reads such files agrees."""
    columns = {"seed": [0, 0], "task": ["t"] * 2, "pool": ["p"] * 2, "calibration": ["none"] * 2}
    columns |= {"query_id": ["a b"] * 2, "candidate_id": ["B00 D0", "100%\t"], "rank": [1, 2], "score": [0.5, 0.25]}
    write_trec(pa.table(columns), tmp_path, "my run")
    (path,) = tmp_path.iterdir()
    rows = list(ir_measures.read_trec_run(str(path)))
    assert [(row.query_id, row.doc_id) for row in rows] == [("a%20b", "B00%20D0"), ("a%20b", "100%25%09")]
    assert all(line.endswith(" my%20run") for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("rows", "message"),
    [(5, "text.npy has 5 rows, the benchmark 7"), (None, "text.npy holds NaN")],
)
def test_embeddings_of_something_else_are_refused(ready, rng, rows, message):
    prepared, embeddings, onnx, output = ready
    bad = unit_rows(rng, rows or 7, 4)
    bad[0, 0] = bad[0, 0] if rows else np.nan
    np.save(embeddings / "seed0/text.npy", bad)
    with pytest.raises(ValueError, match=message):
        retrieve(prepared, [embeddings], None, onnx, None, ["none"], 3, "cpu", None, output)
    assert not output.exists()


def test_calibration_without_statistics_is_refused(ready):
    prepared, embeddings, onnx, output = ready
    with pytest.raises(
        ValueError,
        match=r"calibration center needs statistics of training pairs, and .*seed0/calibration\.json does not exist",
    ):
        retrieve(prepared, [embeddings], None, onnx, None, ["center"], 3, "cpu", None, output)


def test_the_calibration_of_one_model_is_not_taken_for_all_seeds(ready, tmp_path):
    prepared, embeddings, onnx, output = ready
    (tmp_path / "calibration.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is of one model, expected the folder that holds seed0\.json"):
        retrieve(prepared, [embeddings], None, onnx, tmp_path / "calibration.json", ["center"], 3, "cpu", None, output)


def test_rows_of_a_mapped_file_are_those_of_the_array(tmp_path, rng):
    array = rng.normal(size=(50, 3)).astype(np.float32)
    np.save(tmp_path / "a.npy", array)
    mapped = read_array(tmp_path / "a.npy")
    for rows in ([], [0], [49], [3, 4, 5, 9, 8, 8, 0, 1], list(range(50))):
        np.testing.assert_array_equal(rows_of(mapped, np.array(rows, np.int64)), array[rows])
    for rows in ([-1], [50]):
        with pytest.raises(IndexError, match="has 50 rows"):
            rows_of(mapped, np.array(rows))
    with (tmp_path / "a.npy").open("r+b") as file:
        file.truncate(400)
    with pytest.raises(ValueError, match="was cut"):
        rows_of(mapped, np.arange(50))


@pytest.mark.skipif(has_cuda(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu_is_refused_also_for_a_small_pool(ready):
    prepared, embeddings, onnx, output = ready
    with pytest.raises(ValueError, match="there is no CUDA device"):
        retrieve(prepared, [embeddings], None, onnx, None, ["none"], 3, "cuda", None, output)


@pytest.mark.parametrize("depth", [0, 2**15])
def test_a_depth_that_ranks_can_not_hold_is_refused(ready, depth):
    prepared, embeddings, onnx, output = ready
    with pytest.raises(ValueError, match=f"--depth {depth}: expected 1 to 32767"):
        retrieve(prepared, [embeddings], None, onnx, None, ["none"], depth, "cpu", None, output)
    assert not output.exists()


def test_a_bias_is_taken_off_the_cosine(ready, rng):
    prepared, embeddings, onnx, output = ready
    stats = output.with_name("stats")
    stats.mkdir()
    write_calibration(stats / "seed0.json", fit(unit_rows(rng, 9, 4), unit_rows(rng, 9, 4), "sum_raw"))
    bank = {m: unit_rows(rng, 40, 4) for m in MODALITIES}
    write_bank(stats / "seed0.npz", bank)
    retrieve(prepared, [embeddings], None, onnx, stats, ["none", *BIASES], 100, "cpu", None, output)
    rows = pq.read_table(output).to_pylist()
    plain = {(r["pool"], r["query_id"], r["candidate_id"]): r["score"] for r in rows if r["calibration"] == "none"}
    for mode in ("nnn", "inverted_softmax"):
        found = {(r["pool"], r["query_id"], r["candidate_id"]): r["score"] for r in rows if r["calibration"] == mode}
        assert found.keys() == plain.keys()
        off = {}
        for key, score in plain.items():  # what is taken off is the candidate's own, whoever asks
            off.setdefault(key[2], []).append(score - found[key])
        assert all(max(values) - min(values) < 1e-5 for values in off.values())
        image = np.load(embeddings / "seed0/image.npy")[:1]
        expected = biases(mode, image, bank, equal_weights(bank))[0, 1]  # text queries
        assert off["i0"][0] == pytest.approx(expected, abs=1e-5)


def test_a_large_pool_is_read_once_for_calibrations_that_share_vectors(ready, tmp_path, rng, monkeypatch):
    prepared, embeddings, onnx, output = ready
    image, text = unit_rows(rng, 9, 4) + 0.2, unit_rows(rng, 9, 4) - 0.1
    write_calibration(tmp_path / "seed0.json", fit(image, text, "sum_raw"))
    modes = ["none", "center", "zscore", "center_zscore"]

    def run(modes, path):
        retrieve(prepared, [embeddings], None, onnx, tmp_path, modes, 5, "cpu", None, path)
        return pq.read_table(path).to_pylist()

    expected = [row for mode in modes for row in run([mode], tmp_path / f"{mode}.parquet")]
    reads, arrays = [], []
    whole = task_ranker.best_rows

    def counted(queries, pool, *rest):
        reads.append(pool.size)
        arrays.append(len({id(query.vectors) for query in queries}) / len(queries))
        return whole(queries, pool, *rest)

    monkeypatch.setattr(task_ranker, "best_rows", counted)
    assert run(modes, output) == expected
    apart = len(reads)
    monkeypatch.setattr(task_ranker, "KEPT", 0)
    assert run(modes, output) == expected
    assert len(reads) - apart == apart / 2
    assert set(arrays[:apart]) == {1}
    assert set(arrays[apart:]) == {1 / 2}  # so products are made once for two calibrations
