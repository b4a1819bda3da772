"""AnyCIR: snippets that find each other, as any modality; its measure against the authors' formula."""

import json

import numpy as np
import pytest

from gcl.common.arrays import MODALITIES
from gcl.common.errors import UserError
from gcl.common.rows import load_yaml
from gcl.config.project import load
from gcl.data.prepared import read_benchmark
from gcl.prepare.benchmarks.anycir import Options, snippet_pairs
from gcl.prepare.prepare import prepare_benchmark
from gcl.retrieve.retrieve import retrieve
from gcl.retrieve.run_file import rankings
from support.arrays import unit_rows
from support.document_fixtures import anycir
from support.retrieval import write_model
from support.workflow import ROOT


@pytest.fixture
def prepared(tmp_path):
    anycir(tmp_path / "data")
    row = load(load_yaml(ROOT / "config/config.yaml"), ROOT / "config").benchmarks["anycir_fixture"]
    prepare_benchmark(tmp_path / "data", tmp_path / "data/images", row, None, 1, tmp_path / "prepared")
    return tmp_path / "prepared"


def test_nine_tasks_in_each_direction_of_pairs_with_two_images(prepared):
    bench = read_benchmark(prepared)
    assert [(t.query_modality, t.candidate_modality) for t in bench.tasks] == 2 * [
        (q, c) for q in MODALITIES for c in MODALITIES
    ]
    assert {len(table.ids) for table in bench.tables.values()} == {4}  # one of five lacks an image
    first = bench.tasks[0]
    assert (first.name, first.queries, first.pools) == ("next_i_i", "previous_i", {"all": ["next_i"]})
    assert bench.qrels["previous_t_it"] == {str(n): {str(n): 1} for n in range(4)}


def test_recall_is_the_authors(prepared, tmp_path, rng):
    """Theirs: of each row of the similarities of all pairs, whether the diagonal is among the k largest."""
    embeddings, onnx = tmp_path / "embeddings", tmp_path / "onnx"
    images, texts = unit_rows(rng, 8, 6), unit_rows(rng, 8, 6)
    write_model(embeddings / "seed0", onnx / "seed0", images, texts)
    retrieve(prepared, [embeddings], None, onnx, None, ["none"], 10, "cpu", None, tmp_path / "run.parquet")
    bench = read_benchmark(prepared)

    def vectors(table):
        found = np.zeros((4, 6))
        for n in range(4):
            rows = table.image_rows[n].as_py()
            found[n] += images[rows[0]] if rows else 0
            found[n] += texts[table.text_rows[n]] if table.text_rows[n] >= 0 else 0
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    seen = 0
    for ranking in rankings(tmp_path / "run.parquet", {t.name: bench.queries(t) for t in bench.tasks}):
        (task,) = (t for t in bench.tasks if t.name == ranking.task)
        scores = vectors(bench.tables[task.queries]) @ vectors(bench.tables[task.pools["all"][0]]).T
        for k in (1, 2, 3):
            theirs = [n in np.argsort(-row)[:k] for n, row in enumerate(scores)]
            assert [str(n) in own[:k] for n, own in enumerate(ranking.candidates)] == theirs
        seen += 1
    assert seen == 18


def test_documents_give_the_pairs_of_their_snippets(tmp_path):
    snippets = [{"text": str(n), "images": [f"{n}.png"] if n != 2 else []} for n in range(5)]
    (tmp_path / "d.jsonl").write_text(json.dumps({"id": 0, "snippets": snippets}))
    pairs = snippet_pairs(tmp_path / "d.jsonl", "documents", tmp_path)
    assert [(one.text, other.text) for one, other in pairs] == [("0", "1"), ("3", "4")]
    assert Options().form == "pairs"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"pre_text": "", "pre_img": [], "next_text": "a", "next_img": []}, "'pre_text' is '', expected a string"),
        ({"pre_text": "a", "pre_img": "x", "next_text": "a", "next_img": []}, "'pre_img' is 'x', expected list"),
        ({"pre_text": "a", "pre_img": ["../x"], "next_text": "a", "next_img": []}, "leaves the folder of images"),
        ({"pre_text": "a", "pre_img": [3], "next_text": "a", "next_img": []}, "'pre_img' is 3, expected a string"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    (tmp_path / "p.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match=f"p.jsonl:1: .*{message}"):
        list(snippet_pairs(tmp_path / "p.jsonl", "pairs", tmp_path))
