"""Triplets: the public formats, and those that are made of pairs."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gcl.common.errors import UserError
from gcl.data.records import Pair, read_parquet, write_pairs
from gcl.data.triplets import COLUMNS, NOTHING, read_triplets
from gcl.prepare.compose import TEMPLATES, compose, groups, nearest
from gcl.prepare.triplets import FORMS, Record, triplets
from support.arrays import SAME

# Keys as the projects' training code and cards have them.
LINES = {
    "megapairs": {
        "MegaPairs.jsonl": [
            {"q_img": "a.png", "q_text": ["redder", "the same in red"], "t_img": "b.png", "hns": ["a.png", "c.png"]},
            {"q_img": "b.png", "q_text": ["bluer"], "t_img": "c.png", "hns": ["b.png"]},
        ]
    },
    "vista_s2": {
        "Image_Edit_307K_filter.jsonl": [
            {"q_type": "mm_it", "c_type": "image", "query": ["a.png", "redder"], "positive": "b.png",
             "hard_negative": ["c.png"]},
        ],
        "T2IT.jsonl": [
            {"q_type": "text", "c_type": "mm_it", "query": "which is red?", "positive": ["b.png", "it is red"],
             "hard_negative": [["c.png", "it is blue"]]},
        ],
    },
    "records": {"triplets.jsonl": [{"query_image": "a.png", "query_text": "redder", "target_image": "b.png"}]},
}  # fmt: skip
EXPECTED = {
    "megapairs": [
        ("a", "redder", "b", None, "ac"), ("a", "the same in red", "b", None, "ac"), ("b", "bluer", "c", None, "b"),
    ],
    "vista_s2": [("a", "redder", "b", None, "c"), (None, "which is red?", "b", "it is red", "")],
    "records": [("a", "redder", "b", None, "")],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name, color in (("a", "white"), ("b", "red"), ("c", "blue")):
        Image.new("RGB", (8, 8), color).save(tmp_path / f"{name}.png")
    return tmp_path


def write(folder, files):
    for name, lines in files.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_back(folder):
    """Return (query image, text, target, its text, negatives), images by the letter of their file."""
    table = read_triplets(folder)
    letters = [location[-5] for location in read_parquet(folder / "locations.parquet")["location"].to_pylist()]
    texts = read_parquet(folder / "texts.parquet")["text"].to_pylist()

    def of(values, row):
        return None if row == NOTHING else values[row]

    rows = zip(*(table.columns[name].tolist() for name in COLUMNS), table.negatives, strict=True)
    return [
        (
            of(letters, query),
            of(texts, text),
            of(letters, target),
            of(texts, words),
            "".join(letters[i] for i in others),
        )
        for query, _, text, target, words, others in rows
    ]


@pytest.mark.parametrize("form", list(FORMS))
def test_a_public_format_is_read(folder, form):
    write(folder, LINES[form])
    assert triplets(folder, form, 0.0, 2, folder / "out") == {"triplets": len(EXPECTED[form]), "unusable": 0}
    assert read_back(folder / "out") == EXPECTED[form]


BAD = [
    ({"q_img": "a.png", "q_text": ["x"], "t_img": None}, "'t_img' is None, expected a string"),
    ({"q_img": "../a.png", "q_text": ["x"], "t_img": "b.png"}, "leaves the folder of images"),
    ({"q_img": "a.png", "q_text": [], "t_img": "b.png"}, "'q_text' is empty"),
    ({"q_img": "a.png", "q_text": [""], "t_img": "b.png"}, "'q_text' is ''"),
    ({"q_img": "a.png", "q_text": ["x"], "t_img": "gone.png"}, "gone.png"),
    ({"q_img": "a.png", "q_text": ["x"], "t_img": "b.png", "hns": "c.png"}, "'hns' is 'c.png', expected list"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_what_is_wrong_with_a_triplet_is_listed_and_counted(folder, line, message):
    write(folder, {"MegaPairs.jsonl": [*LINES["megapairs"]["MegaPairs.jsonl"], line]})
    assert triplets(folder, "megapairs", 0.5, 2, folder / "out") == {"triplets": 3, "unusable": 1}
    assert message in (folder / "out/rejects.csv").read_text().replace('""', '"')
    with pytest.raises(UserError, match="1 of 4 triplets are unusable, more than reject_limit"):
        triplets(folder, "megapairs", 0.1, 2, folder / "strict")
    assert not (folder / "strict").exists()
    assert message in (folder / "strict.rejects.csv").read_text().replace('""', '"')


def test_a_file_without_a_line_is_no_matter_of_limits(folder):
    (folder / "MegaPairs.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"holds no triplet: MegaPairs\.jsonl have no lines"):
        triplets(folder, "megapairs", 1.0, 2, folder / "out")


def test_another_folder_is_refused(folder):
    with pytest.raises(UserError, match=r"has no MegaPairs\.jsonl, where triplets of form megapairs are"):
        triplets(folder, "megapairs", 0.0, 2, folder / "out")


words = st.text(max_size=6) | st.sampled_from(["a.png", "mm_it", "text", "image"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)  # fmt: skip
keys = sorted({key for files in LINES.values() for lines in files.values() for line in lines for key in line})


@given(st.sampled_from(list(FORMS)), st.dictionaries(st.sampled_from(keys), values))
@settings(deadline=None)
def test_a_line_of_anything_is_a_triplet_or_a_message(tmp_path_factory, form, line):
    message, found = "x:1", []
    try:
        found = list(FORMS[form][1](Record(tmp_path_factory.getbasetemp(), "x:1", line)))
    except UserError as error:
        message = str(error)
    assert message.startswith("x:1")
    assert all(triplet.query_text and triplet.candidate_image for triplet in found)


@pytest.fixture
def pairs(tmp_path, rng):
    """Nine pairs of seven images, in three groups that are alike, and their features."""
    named = [Pair(str(i), f"{min(i, 6)}.png", (f"title {i % 8}. word", f"title {i % 8}")) for i in range(9)]
    for name in ("pairs", "features"):
        (tmp_path / name).mkdir()
    write_pairs(tmp_path / "pairs", named, SAME)
    centers = np.eye(3, 6, dtype=np.float32) * 5
    np.save(tmp_path / "features/image.npy", centers[np.arange(7) % 3] + rng.normal(size=(7, 6)).astype(np.float32))
    return tmp_path


def test_triplets_of_pairs_name_a_neighbour_and_mean_the_pair(pairs):
    assert compose(pairs / "pairs", pairs / "features", 2, pairs / "out") == {"triplets": 18}
    table = read_triplets(pairs / "out")
    texts = read_parquet(pairs / "out/texts.parquet")["text"].to_pylist()
    captions: dict[int, set[str]] = {}
    for i in range(9):
        captions.setdefault(min(i, 6), set()).add(f"title {i % 8}")
    for row in range(18):
        query, between, text, target, words = (int(table.columns[name][row]) for name in COLUMNS)
        assert query == target != between
        assert words == NOTHING
        made = {t.format(a=a, b=b) for t in TEMPLATES for a in captions[query] for b in captions[between]}
        assert texts[text] in made
    assert not len(read_parquet(pairs / "out/images.parquet"))
    with pytest.raises(UserError, match=r"can't read .*nowhere/image.npy: .*run `infer` again"):
        compose(pairs / "pairs", pairs / "nowhere", 2, pairs / "none")
    with pytest.raises(UserError, match="--neighbours is 0, expected 1 or more"):
        compose(pairs / "pairs", pairs / "features", 0, pairs / "none")


def test_neighbours_are_those_of_a_loop(rng):
    vectors = rng.normal(size=(12, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    images, captions = np.arange(12) // 2, np.arange(12) % 5
    found = nearest(vectors, images, captions, 11)
    for row in range(12):
        others = [k for k in range(12) if images[k] != images[row] and captions[k] != captions[row]]
        others.sort(key=lambda k: (-float(vectors[row] @ vectors[k]), k))
        assert [k for k in found[row].tolist() if k != NOTHING] == others


def test_groups_hold_every_pair_once():
    parts = list(groups(10_000))
    assert sorted(np.concatenate(parts).tolist()) == list(range(10_000))
    assert {len(part) for part in parts} <= {3333, 3334}


def test_pairs_that_are_all_alike_make_no_triplets(tmp_path):
    for name in ("pairs", "features"):
        (tmp_path / name).mkdir()
    write_pairs(tmp_path / "pairs", [Pair(str(i), f"{i}.png", ("the same",)) for i in range(3)], SAME)
    np.save(tmp_path / "features/image.npy", np.eye(3, dtype=np.float32))
    with pytest.raises(UserError, match="no two pairs with different images and captions"):
        compose(tmp_path / "pairs", tmp_path / "features", 2, tmp_path / "out")
