"""Images that are written as captions which somebody brings."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gcl.common.errors import UserError
from gcl.common.rows import load_yaml
from gcl.config.benchmarks import Captions
from gcl.config.project import load
from gcl.data.items import Contents, Item, Task
from gcl.data.prepared import read_benchmark
from gcl.data.textualise import read_captions, textualised
from gcl.prepare.prepare import prepare_benchmark
from support.workflow import ROOT


@pytest.fixture
def contents(tmp_path):
    """A query of both, a candidate of two images, one of an image and one of a text."""
    a, b, c = (f"{tmp_path}/{name}" for name in ("a.jpg", "deep/b.jpg", "p.parquet::12::upright"))
    tables = {
        "query": [Item("q", "but red", (a,))],
        "pool": [Item("1", None, (a, b), (0.3, 0.7)), Item("2", None, (c,)), Item("3", "a dog", ())],
    }
    tasks = [Task("x", "image_text", "image", "query", {"all": ["pool"]})]
    return Contents(tables, tasks, [])


CAPTIONS = {"a.jpg": "a car", "deep/b.jpg": "a bus", "p.parquet::12": "a cat"}


def test_captions_stand_for_images_in_their_order(contents, tmp_path):
    found = textualised(contents, CAPTIONS, tmp_path, keep_images=False)
    assert found.tables["query"] == [Item("q", "but red a car", ())]
    assert found.tables["pool"] == [Item("1", "a car a bus", ()), Item("2", "a cat", ()), Item("3", "a dog", ())]
    assert (found.tasks[0].query_modality, found.tasks[0].candidate_modality) == ("text", "text")


def test_images_are_kept_beside_them(contents, tmp_path):
    found = textualised(contents, CAPTIONS, tmp_path, keep_images=True)
    for before, after in zip(contents.tables["pool"], found.tables["pool"], strict=True):
        assert (after.images, after.weights) == (before.images, before.weights)
    assert [item.text for item in found.tables["pool"]] == ["a car a bus", "a cat", "a dog"]
    assert (found.tasks[0].query_modality, found.tasks[0].candidate_modality) == ("image_text", "image_text")


def test_an_image_without_a_caption_is_named(contents, tmp_path):
    with pytest.raises(UserError, match="2 of 3 images have no caption: deep/b.jpg, p.parquet::12; add a line"):
        textualised(contents, {"a.jpg": "a car"}, tmp_path, keep_images=False)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no caption; expected lines like"),
        ([{"image": "a.jpg"}], ":1: 'caption' is None, expected a string"),
        ([{"image": "a.jpg", "caption": " "}], ":1: 'caption' is blank, expected what 'a.jpg' shows"),
        ([{"image": 3, "caption": "x"}], ":1: 'image' is 3, expected a string"),
        (["no object"], ":1: expected an object"),
    ],
)
def test_a_broken_file_is_refused_by_its_line(tmp_path, lines, message):
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=message):
        read_captions(path)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match=r"captions: there is no file .*my captions\.jsonl; write one"):
        read_captions(tmp_path / "my captions.jsonl")


def test_several_captions_of_an_image_are_joined(tmp_path):
    path = tmp_path / "captions.jsonl"
    rows = [{"image": "a.jpg", "caption": c} for c in ("a car", "it is red")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert read_captions(path) == {"a.jpg": "a car it is red"}


@pytest.mark.parametrize("keep", [False, True])
def test_a_benchmark_is_prepared_with_captions(tmp_path, keep):
    """CIRR's fixture: an image and an edit ask for an image; without images no image is opened."""
    row = load(load_yaml(ROOT / "config/config.yaml"), ROOT / "config").benchmarks["cirr_fixture"]
    folder = ROOT / "data/cirr_fixture"
    images = sorted((folder / "images").rglob("*.*g"))
    path = tmp_path / "captions.jsonl"
    lines = [{"image": str(p.relative_to(folder / "images")), "caption": f"shows {p.stem}"} for p in images]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    row = replace(row, captions=Captions(file=str(path), keep_images=keep))
    prepare_benchmark(folder, folder / "images", row, None, 1, tmp_path / "out")
    plain = replace(row, captions=None)
    prepare_benchmark(folder, folder / "images", plain, None, 1, tmp_path / "plain")
    found, before = read_benchmark(tmp_path / "out"), read_benchmark(tmp_path / "plain")
    (task,) = found.tasks
    assert task.candidate_modality == ("image_text" if keep else "text")
    assert found.qrels["cirr"] == before.qrels["cirr"]
    lengths = found.tables[task.queries].image_rows.value_lengths().to_pylist()
    assert lengths == ([1] * 4 if keep else [0] * 4)


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.lists(st.text(max_size=3), max_size=2)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=60), st.lists(st.dictionaries(st.sampled_from(["image", "caption", "x"]), CELLS), max_size=4)
    )
)
def test_whatever_the_file_holds_it_is_captions_or_a_message(tmp_path, content):
    path = tmp_path / "captions.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else "\n".join(map(json.dumps, content)).encode())
    found, said = {}, str(path)
    try:
        found = read_captions(path)
    except UserError as error:
        said = str(error)
    assert str(path) in said
    assert all(image and caption.strip() for image, caption in found.items())
