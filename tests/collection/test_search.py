"""Searching an index, against plain arithmetic; and its vectors in other engines."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcl.collection.embedder import Embedder, Term
from gcl.collection.index import index
from gcl.collection.search import search_each, search_index, term_of
from gcl.collection.store import SHOWN, About, Index, open_index
from gcl.collection.vectors import vectors
from gcl.common.arrays import MODALITIES, unit
from gcl.common.errors import UserError
from gcl.retrieve.calibration import affine
from gcl.retrieve.exact import Query
from gcl.retrieve.scan.rounded import Rounded
from support.arrays import unit_rows


@pytest.fixture
def opened(made, model):
    things, folder = made
    return things, open_index(folder), Embedder(model, "cpu")


def expected(found, query, modality, stats, wanted=MODALITIES):
    """Every item's z-score in float64, best first."""
    factors, offsets = affine("center_zscore", modality, MODALITIES, stats)
    cosines = found.vectors.astype(np.float64) @ query.astype(np.float64)
    scores = (cosines * factors[found.modalities] + offsets[found.modalities]).astype(np.float32)
    rows = [r for r in np.argsort(-scores, kind="stable").tolist() if MODALITIES[found.modalities[r]] in wanted]
    return [(float(scores[r]), r) for r in rows]


@pytest.mark.parametrize("kind", MODALITIES)
@pytest.mark.parametrize("wanted", [None, ["image"], ["text", "image_text"]])
def test_any_query_finds_any_item_in_one_list(opened, kind, wanted):
    things, found, embedder = opened
    image = str(things / "8.png") if kind != "text" else None
    text = "number 4" if kind != "image" else None
    terms = [Term(1.0, text=text)] * (text is not None) + [Term(1.0, image=image)] * (image is not None)
    hits = search_index(found, embedder.query(terms), 5, wanted)
    vector = embedder.embed([image], [text])[0]
    best = expected(found, vector, kind, embedder.stats, wanted or MODALITIES)
    assert [hit.row for hit in hits] == [row for _, row in best][:5]
    np.testing.assert_allclose([hit.score for hit in hits], [score for score, _ in best][:5], rtol=1e-5, atol=1e-5)
    assert hits[0].id == found.items["id"][hits[0].row].as_py()


def test_weights_add_and_take_away(opened):
    _things, _found, embedder = opened
    a, b = embedder.embed([None, None], ["word", "number 4"])
    query = embedder.query([Term(2.0, text="word"), Term(-0.5, text="number 4")])
    np.testing.assert_allclose(query.vectors[0], unit((2 * a - 0.5 * b)[None])[0], rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="cancel each other"):
        embedder.query([Term(1.0, text="word"), Term(-1.0, text="word")])
    with pytest.raises(UserError, match="the query is empty"):
        embedder.query([Term(-1.0, text="word")])


@pytest.mark.parametrize(
    ("value", "expected"),
    [("2:snow", (2.0, "snow")), ("snow", (1.0, "snow")), ("0.5: a: b", (0.5, "a: b")), ("x:y", (1.0, "x:y"))],
)
def test_terms_are_read(value, expected):
    term = term_of(value, False)
    assert (term.weight, term.text) == expected
    assert term_of(value, True, -1.0).weight == -expected[0]
    with pytest.raises(UserError, match="is empty"):
        term_of("2: ", False)


def test_a_cut_off_drops_what_lies_below(opened):
    _, found, embedder = opened
    query = embedder.query([Term(1.0, text="number 4")])
    everything = search_index(found, query, 100)
    assert len(everything) == 12
    cut = everything[4].score
    assert search_index(found, query, 100, None, cut) == everything[:5]
    assert search_index(found, query, 100, None, 1e6) == []


def gcl_search(folder, *arguments, ok=True):
    command = [sys.executable, "-m", "gcl.collection.search", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if ok else done.stderr


def test_the_command_line(made, model, tmp_path):
    things, folder = made
    lines = gcl_search(folder, "--text", "number 4", "-k", "3").splitlines()
    assert len(lines) == 3
    hits = json.loads(gcl_search(folder, "--text", "number 4", "-k", "3", "--json"))
    assert [line.split()[2] for line in lines] == [hit["id"] for hit in hits]
    picture = str(things / "0.png")
    paths = gcl_search(folder, "--image", picture, "--modality", "image", "-k", "1", "--paths")
    assert paths == f"{picture}\n"
    assert len(gcl_search(folder, "--text", "2:word", "--minus", picture, "--image", picture).splitlines()) == 10
    assert "holds no index; make one with `gcl index" in gcl_search(tmp_path, "--text", "x", ok=False)
    assert "the query is empty" in gcl_search(folder, ok=False)
    assert "is missing" in gcl_search(folder, "--image", str(things / "none.png"), ok=False)
    assert "can't decode" in gcl_search(folder, "--image", str(things / "4.txt"), ok=False)
    assert "-k is 0" in gcl_search(folder, "--text", "x", "-k", "0", ok=False)
    assert gcl_search(folder, "--text", "x", "--min-score", "1e6") == ""
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    assert gcl_search(folder, "--text", "number 4", "-k", "3", "--model", str(moved)).splitlines() == lines
    (moved / "tokenizer.json").write_text((moved / "tokenizer.json").read_text() + " ")
    assert "is another model than the one" in gcl_search(folder, "--text", "x", "--model", str(moved), ok=False)


def test_without_a_calibration_scores_are_cosines_and_no_cut_off_is_taken(made, model, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "calibration.json").unlink()
    index(made[0], bare, tmp_path / "plain", "cpu")
    hits = json.loads(gcl_search(tmp_path / "plain", "--image", str(made[0] / "0.png"), "-k", "1", "--json"))
    assert hits[0]["id"] == "0.png"
    assert abs(hits[0]["score"] - 1) < 1e-5
    assert "has no calibration" in gcl_search(tmp_path / "plain", "--text", "x", "--min-score", "2", ok=False)
    with pytest.raises(UserError, match="no calibration to fold in"):
        vectors(tmp_path / "plain", "parquet", "text", tmp_path / "x.parquet")


def large(rng, n=3000, width=32):
    """An index in memory of random vectors."""
    found = unit_rows(rng, n, width)
    items = pa.table({name: [f"{name}{k}" for k in range(n)] for name in SHOWN})
    about = About("model", "0", "center_zscore", width, "source")
    return Index(None, about, found, rng.integers(0, 3, n).astype(np.int8), items, 0)


def test_the_same_ten_in_other_engines(opened, tmp_path):
    """With the calibration folded in, an inner product is the z-score, wherever it is computed."""
    import faiss
    import lancedb
    from usearch.index import Index as USearch

    _, found, embedder = opened
    query = embedder.query([Term(1.0, text="number 4")])
    ours = [(hit.id, hit.score) for hit in search_index(found, query, 10)]
    asked = np.append(query.vectors[0], np.float32(1))
    for form, name in (("parquet", "v.parquet"), ("npy", "npy"), ("faiss", "faiss")):
        vectors(found.folder, form, "text", tmp_path / name)
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["id", "modality", "path", "text", "vector"]
    names = table["id"].to_pylist()
    assert (tmp_path / "faiss/ids.txt").read_text().splitlines() == names

    flat = faiss.read_index(str(tmp_path / "faiss/vectors.faiss"))
    scores, rows = flat.search(asked[None], 10)
    results = {"faiss": ([names[r] for r in rows[0]], scores[0])}
    stored = lancedb.connect(tmp_path / "lance").create_table("x", table)
    answer = stored.search(asked).distance_type("dot").limit(10).to_arrow()
    results["lancedb"] = (answer["id"].to_pylist(), 1 - answer["_distance"].to_numpy())
    array = np.load(tmp_path / "npy/img_emb/img_emb_0.npy")
    listing = pq.read_table(tmp_path / "npy/metadata/metadata_0.parquet")
    assert listing.column_names == ["id", "modality", "image_path", "caption"]
    other = USearch(ndim=array.shape[1], metric="ip", dtype="f32")
    other.add(np.arange(len(array)), array)
    matches = other.search(asked, 10, exact=True)
    results["usearch"] = ([listing["id"][int(key)].as_py() for key in matches.keys], 1 - matches.distances)
    for ids, theirs in results.values():
        assert ids == [name for name, _ in ours]
        np.testing.assert_allclose(theirs, [score for _, score in ours], rtol=0, atol=1e-4)


def test_vectors_as_they_are(opened, tmp_path):
    _, found, _ = opened
    vectors(found.folder, "npy", None, tmp_path / "npy")
    np.testing.assert_array_equal(np.load(tmp_path / "npy/img_emb/img_emb_0.npy"), found.vectors)


def test_a_large_index_is_searched_exactly(rng):
    found = large(rng)
    query = Query(unit_rows(rng, 1, 32), np.array([[3.0, 5.0, 4.0]]), np.array([[-1.0, -2.0, 0.5]]))
    scores = query.scores(found.vectors, found.modalities)[0]
    best = np.argsort(-scores, kind="stable")[:20]
    assert [hit.row for hit in search_index(found, query, 20)] == best.tolist()


def test_each_part_by_itself_finds_what_nothing_beats_in_all(opened):
    _things, found, embedder = opened
    queries = [embedder.query([Term(1.0, text=text)]) for text in ("number 4", "word word")]
    scores = np.stack([q.scores(np.asarray(found.vectors[:]), found.modalities)[0] for q in queries], 1)
    best = [
        row for row, own in enumerate(scores) if not ((scores >= own).all(1) & (scores > own).any(1)).any()
    ]  # no other is as good in both and better in one
    hits = search_each(found, queries, 100, None, None)
    assert sorted(hit.row for hit in hits) == best
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert set(scores.argmax(0).tolist()) <= {hit.row for hit in hits}  # the best for either part alone
    assert search_each(found, queries, 1, ["image"], None)[0].modality == "image"


def test_a_large_index_keeps_a_copy_in_8_bits_and_answers_the_same(made, model, monkeypatch):
    _, folder = made
    plain = open_index(folder)
    assert plain.rounded is None
    monkeypatch.setattr("gcl.collection.store.WORTH_ROUNDING", 12)
    shutil.rmtree(folder / "scan")
    found, embedder = open_index(folder), Embedder(model, "cpu")
    assert len(found.rounded) == len(found.vectors) == 12
    read, whole = [], Rounded.blocks
    monkeypatch.setattr(Rounded, "blocks", lambda copy, queries: read.append(1) or whole(copy, queries))
    for term in (Term(1.0, text="number 4"), Term(1.0, text="word")):
        query = embedder.query([term])
        assert search_index(found, query, 5) == search_index(plain, query, 5)
        everything = search_index(plain, query, 100)
        for wanted in (["text"], ["image", "image_text"]):
            right = [hit for hit in everything if hit.modality in wanted]
            for k in (2, 100):
                assert search_index(plain, query, k, wanted) == right[:k]
                assert search_index(found, query, k, wanted) == right[:k]
    assert len(read) == 2 * 5
    np.save(folder / "scan/rounding.npy", found.rounded.facts[:, 1:])
    with pytest.raises(UserError, match="is not of one piece"):
        open_index(folder)


def test_several_vectors_an_item_are_not_handed_to_engines_that_compare_one(made):
    _, folder = made
    about = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(about | {"late": 4}))
    with pytest.raises(UserError, match="has 4 vectors an item, which no engine here compares by maxsim"):
        vectors(folder, "parquet", None, folder / "v.parquet")
