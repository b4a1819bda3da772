"""The readers of M2KR, MMDocIR and wikiHow-TIIR, on small data sets in the official layouts."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcl.common.rows import load_yaml
from gcl.config.project import load
from gcl.data.in_turns import pieces
from gcl.data.prepared import read_benchmark
from gcl.prepare.benchmarks.mmdocir import overlap
from gcl.prepare.prepare import prepare_benchmark
from gcl.retrieve.run_file import Ranking
from gcl.score.answers import Answers
from support.document_fixtures import m2kr, mmdocir, tiir
from support.workflow import ROOT


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Fresh copies of the three."""
    folder = tmp_path_factory.mktemp("documents")
    for write in (m2kr, mmdocir, tiir):
        write(folder / f"{write.__name__}_fixture")
    return folder


@pytest.fixture(scope="module")
def rows():
    """Rows of benchmarks.yaml."""
    return load(load_yaml(ROOT / "config/config.yaml"), ROOT / "config").benchmarks


def prepared(folder, row, output):
    images = folder / row.images.folder if row.images else folder
    prepare_benchmark(folder, images, row, None, 2, output)
    return read_benchmark(output, lists=True)


def texts_of(output, table):
    texts = pq.read_table(output / "texts.parquet")["text"].to_pylist()
    return [texts[row] if row >= 0 else None for row in table.text_rows]


def test_m2kr_as_prepared(data, rows, tmp_path):
    bench = prepared(data / "m2kr_fixture", rows["m2kr_fixture"], tmp_path / "p")
    assert [task.name for task in bench.tasks] == ["IGLUE", "MSMARCO", "OKVQA", "OKVQA_pseudo"]
    assert [task.query_modality for task in bench.tasks] == ["image_text", "text", "image_text", "image_text"]
    assert bench.qrels["OKVQA"]["q1"] == {"OKVQA_1": 1, "OKVQA_3": 1}
    assert bench.qrels["OKVQA"]["q2"] == {"OKVQA_2": 1, "OKVQA_lost": 1}  # one that no pool has counts as not found
    assert bench.qrels["OKVQA_pseudo"] == {}
    assert bench.answers == {"OKVQA_pseudo": {"q0": ["WITH 0 lines ", "x"], "q1": ["4 lines"], "q2": ["with"]}}
    asked = texts_of(tmp_path / "p", bench.tables["query_OKVQA"])
    assert asked[0].startswith("Answer the question: what is ")
    assert set(texts_of(tmp_path / "p", bench.tables["query_IGLUE"])) == {"Find a passage about this picture:"}
    assert texts_of(tmp_path / "p", bench.tables["pool_MSMARCO"])[4] == ""


def test_m2kr_without_instructions_asks_with_the_image_alone(data, rows, tmp_path):
    row = replace(rows["m2kr_fixture"], options={"instructions": "strip"})
    bench = prepared(data / "m2kr_fixture", row, tmp_path / "p")
    assert [task.query_modality for task in bench.tasks] == ["image", "text", "image_text", "image_text"]


def test_a_passage_with_an_answer_is_relevant(data, rows, tmp_path):
    bench = prepared(data / "m2kr_fixture", rows["m2kr_fixture"], tmp_path / "p")
    (task,) = (task for task in bench.tasks if task.name == "OKVQA_pseudo")
    ids = [f"OKVQA_{k}" for k in (4, 1, 0, 3, 2)]
    ranking = Ranking(0, task.name, "local", "none", [ids, ids, ids], [np.arange(5.0)[::-1]] * 3)
    texts = dict(
        zip([f"OKVQA_{k}" for k in range(5)], texts_of(tmp_path / "p", bench.tables["pool_OKVQA"]), strict=True)
    )
    for depth in (1, 2, 3, 5):
        found = Answers(bench, tmp_path / "p").relevant(ranking, task, depth)
        for query, answers in bench.answers[task.name].items():
            expected = [c for c in ids[:depth] if any(a.strip().lower() in texts[c].lower() for a in answers)]
            assert list(found[query]) == expected
    assert list(found["q0"]) == ["OKVQA_0"]
    assert list(found["q1"]) == []
    assert list(found["q2"]) == ["OKVQA_1", "OKVQA_0", "OKVQA_3", "OKVQA_2"]


def change(path, edit):
    pq.write_table(edit(pq.read_table(path)), path)


def without(name):
    return lambda table: table.drop_columns([name])


def replaced(name, values, kind):
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array(values, kind))


DATA, PASSAGES = "data/test-00000-of-00001.parquet", "passages/test_passages-00000-of-00001.parquet"


def nothing_asked(table):
    return replaced("question", [None, "", "c"], pa.string())(without("instruction")(table))


@pytest.mark.parametrize(
    ("task", "file", "edit", "said"),
    [
        ("OKVQA", DATA, without("pos_item_ids"), "has no column pos_item_ids, only question_id"),
        ("OKVQA", DATA, without("answers"), "has no answers, which OKVQA_pseudo counts"),
        ("OKVQA", DATA, lambda t: t.slice(0, 0), "the test split holds no query"),
        ("OKVQA", DATA, lambda t: pa.concat_tables([t, t]), "id 'q0' occurs twice"),
        ("IGLUE", DATA, replaced("img_path", ["../x", "a", "b"], pa.string()), "row 0: path '../x' leaves"),
        ("MSMARCO", DATA, nothing_asked, "row 0: 'q0' has neither text nor image"),
        ("MSMARCO", PASSAGES, replaced("passage_content", [None] * 5, pa.string()), "row 0: 'passage_content' is None"),
    ],
)  # fmt: skip
def test_m2kr_names_what_is_wrong(data, rows, tmp_path, task, file, edit, said):
    folder = tmp_path / "m2kr"
    shutil.copytree(data / "m2kr_fixture", folder)
    change(folder / f"{task}_{file}", edit)
    with pytest.raises(ValueError, match=said):
        prepared(folder, rows["m2kr_fixture"], tmp_path / "out")


def test_mmdocir_as_prepared(data, rows, tmp_path):
    bench = prepared(data / "mmdocir_fixture", rows["mmdocir_fixture"], tmp_path / "p")
    assert [(task.name, task.candidate_modality, task.listed) for task in bench.tasks] == [
        ("page", "image_text", ("document",)), ("layout", "image_text", ("document",))
    ]  # fmt: skip
    assert bench.qrels["page"]["b.pdf/question1"] == {"b.pdf/page0": 1, "b.pdf/page1": 1}
    assert bench.qrels["page"]["a.pdf/question0"] == {"a.pdf/page1": 1}  # named twice, relevant once
    assert bench.qrels["layout"]["b.pdf/question1"] == {"b.pdf/layout0": 1, "b.pdf/layout2": 1}
    assert "a.pdf/question1" not in bench.qrels["layout"]  # its label grazes no layout: a miss
    ids = bench.tables["page"].ids.to_pylist()
    lists = {query: [ids[row] for row in found] for query, found in bench.lists["page", "document"].items()}
    assert lists["a.pdf/question0"] == ["a.pdf/page0", "a.pdf/page1", "a.pdf/page2"]
    assert lists["b.pdf/question0"] == ["b.pdf/page0", "b.pdf/page1"]
    assert len(bench.lists["layout", "document"]["a.pdf/question0"]) == 4
    shown = texts_of(tmp_path / "p", bench.tables["layout"])
    layouts = pq.read_table(data / "mmdocir_fixture/MMDocIR_layouts.parquet").to_pylist()
    assert shown == [row["ocr_text" if row["type"] in ("figure", "table") else "text"] or "" for row in layouts]


@pytest.mark.parametrize("show", ["image", "ocr_text", "vlm_text", "image_vlm_text"])
def test_mmdocir_shows_what_is_asked_for(data, rows, tmp_path, show):
    row = replace(rows["mmdocir_fixture"], options={"show": show})
    bench = prepared(data / "mmdocir_fixture", row, tmp_path / "p")
    table = bench.tables["page"]
    assert (table.text_rows >= 0).all() == ("text" in show)
    assert (table.image_rows.value_lengths().to_numpy() > 0).all() == ("image" in show)


def test_overlap_is_of_the_smaller_box():
    assert overlap((0, 0, 10, 10), (5, 5, 7, 7)) == 1
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == 0.5
    assert overlap((0, 0, 1, 1), (1, 1, 2, 2)) == 0
    assert overlap((0, 0, 0, 5), (0, 0, 9, 9)) == 0


def with_first(key, value):
    def edit(records):
        records[0][key] = value

    return edit


def in_question(key, value):
    def edit(records):
        records[0]["questions"][0][key] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (with_first("page_indices", [3, 9]), "'page_indices' 3 to 9 are not the rows of 'b.pdf' among 5"),
        (with_first("page_indices", [2, 4]), "'page_indices' 2 to 4 are not the rows of 'b.pdf'"),
        (with_first("layout_indices", [4]), r"'layout_indices' is \[4\], expected 2 numbers"),
        (with_first("questions", None), "'questions' is None, expected list"),
        (in_question("page_id", [2]), "'page_id' holds 2, expected pages from 0 to 1"),
        (in_question("Q", ""), "'Q' is '', expected a string"),
        (in_question("layout_mapping", [{"page": 0, "bbox": [1, 2, 3, "x"]}]), "expected 4 numbers"),
    ],
)
def test_mmdocir_names_what_is_wrong(data, rows, tmp_path, edit, said):
    folder = tmp_path / "mmdocir"
    shutil.copytree(data / "mmdocir_fixture", folder)
    path = folder / "MMDocIR_annotations.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    edit(records)
    path.write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(ValueError, match=said):
        prepared(folder, rows["mmdocir_fixture"], tmp_path / "out")


def test_tiir_as_prepared(data, rows, tmp_path):
    bench = prepared(data / "tiir_fixture", rows["tiir_fixture"], tmp_path / "p")
    pool = bench.tables["pool"]
    assert pool.image_rows.value_lengths().to_pylist() == [2, 3, 1, 2, 0, 2, 2]
    shown = texts_of(tmp_path / "p", pool)
    assert shown[0].count("Draw ") == 2
    assert shown[3] is None
    assert texts_of(tmp_path / "p", bench.tables["query"])[0] == "How to draw and then?"
    assert bench.qrels["tiir"] == {str(k): {str(k): 1} for k in range(4)}
    twice = bench.tables["query"].image_rows[3].as_py()
    assert len(twice) == 2
    assert len(set(twice)) == 1
    records = [json.loads(line) for line in (data / "tiir_fixture/documents.jsonl").read_text().splitlines()]
    texts, places = texts_of(tmp_path / "p", pool), pool.places.to_pylist()
    for record, text, own in zip(records, texts, places, strict=True):
        shown = [part.endswith(".png") for part in record["data"]]
        if text is None or not any(shown) or shown == [True, *[False] * (len(shown) - 1)]:
            assert own == []
        else:
            numbers = [number for number, part in enumerate(pieces(text, tuple(own))) if isinstance(part, int)]
            assert len(numbers) == sum(shown)
            said = [part for part in pieces(text, tuple(own)) if isinstance(part, str)]
            assert " ".join(said) == text
            assert isinstance(pieces(text, tuple(own))[0], int) == shown[0]


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("queries.jsonl", {"qid": 0, "data": ["x"]}, "id '0' occurs twice"),
        ("queries.jsonl", {"qid": True, "data": ["x"]}, "'qid' is True"),
        ("documents.jsonl", {"id": 9, "data": []}, "'9' has neither text nor image"),
        ("documents.jsonl", {"id": 9, "data": ["a", 1]}, "'data' holds 1, expected texts"),
        ("documents.jsonl", {"id": 9, "data": ["../step.png"]}, "leaves the folder of images"),
        ("documents.jsonl", {"id": 9, "data": ["gone.png"]}, "gone.png"),
        ("qrels.jsonl", {"did": 99, "qid": 0}, "document '99' is in neither"),
    ],
)
def test_tiir_names_what_is_wrong(data, rows, tmp_path, file, line, said):
    folder = tmp_path / "tiir"
    shutil.copytree(data / "tiir_fixture", folder)
    with (folder / file).open("a") as lines:
        lines.write(json.dumps(line) + "\n")
    row = replace(rows["tiir_fixture"], tasks={})
    with pytest.raises(ValueError, match=said):
        prepared(folder, row, tmp_path / "out")
