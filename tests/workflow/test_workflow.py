"""The whole workflow on a tiny part of the demo, in a copy of the working tree."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from tokenizers import Tokenizer

from gcl.score.score import COLUMNS
from support.workflow import ROOT, copied, copy_working_tree, gcl, snakemake

SMOKE = ["--configfile", "config/smoke.yaml"]


def planned(clone, *arguments):
    """The rules a dry run would run, with how many jobs each; empty if nothing is to be done."""
    text = snakemake(clone, "-n", *SMOKE, *arguments)
    table = text.rpartition("Job stats:")[2].partition("total")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE) if name != "all"}


def planned_recipes(clone):
    """The recipes among the planned jobs."""
    return set(re.findall(r"recipe=(\w+)", snakemake(clone, "-n", *SMOKE)))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy in a folder with a space in its name, run once."""
    made = copy_working_tree(tmp_path_factory.mktemp("a clone"))
    shutil.rmtree(made / "results", ignore_errors=True)
    snakemake(made, "--cores", "2", *SMOKE)
    return made


def test_everything_that_was_asked_for_is_there(clone):
    results = clone / "results_smoke"
    with (results / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    # recipe: seeds x calibrations; times 9 tasks, 2 pools, 4 measures
    expected = {("clip_lite", "gcl_full_smoke"): 1, ("clip_lite", "gcl_smoke_t05"): 3}
    expected |= {(b, r): 4 for b in ("clip_lite", "vista_lite") for r in ("pretrained_smoke", "gcl_smoke")}
    found = Counter((r["backbone"], r["recipe"]) for r in rows)
    assert found == {key: runs * 72 for key, runs in expected.items()}
    assert all(0 <= float(r["ci_low"]) <= float(r["value"]) <= float(r["ci_high"]) <= 1 for r in rows)
    for name in (
        "tables/clipart9.md",
        "tables/clipart9.csv",
        "tables/summary.md",
        "figures/projection.svg",
        "report.html",
    ):
        assert (results / name).stat().st_size > 500
    assert {path.name for path in (results / "done").iterdir()} >= {"first", "clip_lite", "vista_lite"}
    assert (results / "manifests/clip_lite/gcl_smoke/train.json").exists()
    assert (results / "onnx/clip_lite/gcl_full_smoke/seed0/export.json").exists()


def test_native_fusion_has_outputs_of_its_own(clone):
    results = clone / "results_smoke"
    assert (results / "onnx/vista_lite/towers/image_text.onnx").exists()
    assert (results / "embeddings/vista_lite/gcl_smoke/clipart9/seed0/image_text.npy").exists()
    assert not (results / "embeddings/clip_lite/gcl_smoke/clipart9/seed0/image_text.npy").exists()


@pytest.mark.parametrize("backbone", ["clip_lite", "vista_lite"])
def test_a_bundle_embeds_as_towers_and_heads_do(clone, tmp_path, backbone):
    models = clone / "results_smoke/onnx" / backbone
    gcl(
        clone,
        "gcl.export.bundle",
        "--towers",
        models / "towers",
        "--heads",
        models / "gcl_smoke/seed0",
        "--calibration",
        clone / f"results_smoke/calibrations/{backbone}/gcl_smoke/seed0.json",
        "--output",
        tmp_path / "m",
    )
    gcl(clone, "gcl.infer", "--onnx", tmp_path / "m", "--prepared", clone / "results_smoke/prepared/clipart9",
        "--device", "cpu", "--output", tmp_path / "e")  # fmt: skip
    assert [o.version for o in onnx.load(tmp_path / "m/image.onnx").opset_import] == [20]
    expected = clone / "results_smoke/embeddings" / backbone / "gcl_smoke/clipart9/seed0"
    names = sorted(p.name for p in expected.glob("*.npy"))
    assert names == sorted(p.name for p in (tmp_path / "e").glob("*.npy"))
    gcl(clone, "gcl.retrieve", "--onnx", tmp_path / "m", "--prepared", clone / "results_smoke/prepared/clipart9",
        "--embeddings", tmp_path / "e", "--calibrations", "center_zscore",
        "--output", tmp_path / "run.parquet")  # fmt: skip
    for name in names:
        np.testing.assert_allclose(np.load(tmp_path / "e" / name), np.load(expected / name), rtol=0, atol=1e-4)


def test_the_three_lines_of_the_readme_run(clone, tmp_path):
    models = clone / "results_smoke/onnx/clip_lite"
    gcl(clone, "gcl.export.bundle", "--towers", models / "towers", "--heads", models / "gcl_smoke/seed0",
        "--output", tmp_path / "model")  # fmt: skip
    for name, colour in (("a.jpg", "red"), ("b.png", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / name)
    lines = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    code = f"import gcl\n{lines}\nprint(vectors.shape, sorted(hits.rows[0].tolist()))"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "(2, 256) [0, 1]\n"


def test_a_published_model_gives_the_vectors_of_the_exported_one(clone, tmp_path):
    gcl(clone, "gcl.export.publish", "--name", "vista_lite", "--recipe", "gcl_smoke", "--results", "results_smoke",
        "--output", tmp_path / "m")  # fmt: skip
    card = (tmp_path / "m/README.md").read_text()
    assert "| clipart9 | global | none | Success@10 |" in card
    scope = {}
    exec(card.split("```python\n")[1].split("```")[0].replace("PATH/TO/THIS/FOLDER", str(tmp_path / "m")), scope)  # noqa: S102
    tokenizer = Tokenizer.from_file(str(tmp_path / "m/tokenizer.json"))
    texts = pq.read_table(clone / "results_smoke/prepared/clipart9/texts.parquet")["text"].to_pylist()[:5]
    ids = torch.tensor([e.ids for e in tokenizer.encode_batch(texts)])
    with torch.inference_mode():
        found = scope["model"].eval().encode_text(ids).numpy()
    expected = np.load(clone / "results_smoke/embeddings/vista_lite/gcl_smoke/clipart9/seed0/text.npy")[:5]
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("backbone", ["clip_lite", pytest.param("vista_lite", marks=pytest.mark.slow)])
def test_a_published_folder_of_sentence_transformers_gives_them_too(clone, tmp_path, backbone):
    from sentence_transformers import SentenceTransformer

    gcl(clone, "gcl.export.publish", "--name", backbone, "--recipe", "gcl_smoke", "--config", "config/smoke.yaml",
        "--format", "sentence-transformers", "--output", tmp_path / "st")  # fmt: skip
    prepared = clone / "results_smoke/prepared/clipart9"
    texts = pq.read_table(prepared / "texts.parquet")["text"].to_pylist()[:4]
    model = SentenceTransformer(str(tmp_path / "st"), trust_remote_code=True, device="cpu")
    expected = np.load(clone / f"results_smoke/embeddings/{backbone}/gcl_smoke/clipart9/seed0/text.npy")[:4]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(model.encode(texts), expected, rtol=0, atol=1e-4)
    card = (tmp_path / "st/README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert "SentenceTransformer(" in card
    assert "| clipart9 |" in card  # its measures
    assert (tmp_path / "st/calibration.json").exists()


def test_a_second_run_does_nothing(clone):
    assert planned(clone) == {}


@pytest.mark.parametrize(
    ("cores", "arguments", "whole", "heads", "retrieve"),
    [
        (16, [], 8, 1, 1),
        (16, ["shards={clipart9: 2}"], 8, 1, 8),
        (1, ["shards={clipart9: 2}"], 1, 1, 1),
        (16, ["device=cuda"], 8, 1, 8),
        (16, ["device=cuda", "--resources", "gpu=3"], 4, 1, 4),
    ],
)
def test_jobs_over_many_items_take_their_share_of_the_cores(clone, cores, arguments, whole, heads, retrieve):
    text = snakemake(clone, "-n", "--cores", str(cores), *SMOKE, "--config", "results=elsewhere", *arguments)
    found = {}
    for job in text.split("\nrule ")[1:]:
        threads = re.search(r"threads: (\d+)", job)
        kind = "full" if "recipe=gcl_full_smoke" in job else "heads"
        found.setdefault((job.partition(":")[0], kind), set()).add(int(threads[1]) if threads else 1)
    assert found["infer_towers", "heads"] == found["infer", "full"] == {whole}
    assert found["infer", "heads"] == found["infer_pairs", "heads"] == {heads}
    assert found["retrieve", "full"] == {retrieve}  # of clipart9 alone


def test_touching_files_re_runs_nothing(clone):
    for path in [
        *clone.rglob("src/gcl/**/*.py"),
        *clone.glob("config/*.yaml"),
        clone / "data/openclipart/pictures.parquet",
    ]:
        path.touch()
    assert planned(clone) == {}


def edited(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_changed_learning_rate_re_runs_that_recipe_only(clone):
    path = clone / "config/recipes.yaml"
    before = path.read_text()
    edited(path, "gcl_smoke: {<<: *gcl,", "gcl_smoke: {<<: *gcl, learning_rate: 2.0e-4,")
    assert planned_recipes(clone) == {"gcl_smoke"}
    steps = ("train", "export", "infer", "infer_pairs", "calibrate", "retrieve", "score")
    assert planned(clone) == dict.fromkeys([*steps, "backbone"], 2) | {"first": 1, "report": 1}
    path.write_text(before)
    assert planned(clone) == {}


def test_an_edit_of_score_re_runs_scoring_and_the_report_only(clone):
    path = clone / "src/gcl/score/score.py"
    before = path.read_text()
    path.write_text(before + "\n# edited\n")
    assert planned(clone) == {"score": 6, "first": 1, "backbone": 2, "report": 1}
    path.write_text(before)
    assert planned(clone) == {}


@pytest.mark.parametrize(
    "edit",
    ["prepare/benchmarks/mmeb", "prepare/benchmarks/clipart9", "models/weights/model_card", "report/sections"],
)
def test_an_edit_that_no_training_uses_re_runs_no_training(clone, edit):
    path = clone / f"src/gcl/{edit}.py"
    before = path.read_text()
    path.write_text(before + "\n# another thought\n")
    rules = planned(clone)
    path.write_text(before)
    assert not {"train", "prepare_pairs"} & set(rules)
    assert ("report" in rules) == (edit in ("prepare/benchmarks/clipart9", "report/sections"))


def test_an_edit_of_ones_own_pairs_is_noticed(tmp_path):
    """A data set that lists no files is known by its content; a touch is no edit."""
    clone = copy_working_tree(tmp_path / "own")
    row = "\nmine: {source: mine, licence: mine, pairs: auto, files: []}\n"
    (clone / "config/datasets.yaml").open("a").write(row)
    mine = clone / "data/mine"
    mine.mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(mine / f"{number}.png")
        (mine / f"{number}.txt").write_text(f"red number {number}")
    arguments = ["--config", "pairs=mine", "results=results_mine", "--", "results_mine/prepared/mine"]
    snakemake(clone, "--cores", "1", *arguments)
    for path in mine.glob("*"):
        path.touch()
    assert "Nothing to be done" in snakemake(clone, "-n", *arguments)
    (mine / "2.txt").write_text("dark red")
    assert "prepare_pairs" in snakemake(clone, "-n", *arguments)
    snakemake(clone, "--cores", "1", *arguments)
    texts = pq.read_table(clone / "results_mine/prepared/mine/texts.parquet")["text"].to_pylist()
    assert sorted(texts) == ["dark red", "red number 0", "red number 1", "red number 3"]
    assert "Nothing to be done" in snakemake(clone, "-n", *arguments)


def test_scoring_again_gives_the_same_bytes(clone):
    results = clone / "results_smoke"
    names = [
        p.relative_to(results) for p in [*results.glob("tables/*"), *results.glob("figures/*"), results / "report.html"]
    ]
    before = {name: (results / name).read_bytes() for name in names}
    snakemake(clone, "--cores", "2", *SMOKE, "--forcerun", "retrieve", "--allowed-rules", "retrieve", "score", "report")
    assert {name: (results / name).read_bytes() for name in names} == before


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"backbones": ["clip_lit"]}, "unknown backbone 'clip_lit' (did you mean 'clip_lite'?)"),
        ({"deppth": 3}, "config/config.yaml: unknown key 'deppth' (did you mean 'depth'?)"),
        ({"depth": "many"}, "config/config.yaml: depth: Input should be a valid integer"),
    ],
)
def test_a_bad_choice_stops_before_any_job(clone, tmp_path, keys, message):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(keys))
    assert message in snakemake(clone, "-n", *SMOKE, str(tmp_path / "bad.yaml"), ok=False)


def test_a_job_that_fails_says_why_and_leaves_nothing(clone, tmp_path):
    overlay = {**yaml.safe_load((clone / "config/smoke.yaml").read_text()), "device": "cuda", "results": "results_cuda"}
    (tmp_path / "cuda.yaml").write_text(yaml.safe_dump(overlay))
    for kept in ("prepared", "onnx"):
        copied(clone / "results_smoke" / kept, clone / "results_cuda" / kept)
    target = "results_cuda/embeddings/clip_lite/towers/clipart9"
    text = snakemake(clone, "--cores", "1", "--configfile", str(tmp_path / "cuda.yaml"), "--", target, ok=False)
    if "there is no CUDA device" not in text:
        pytest.skip("there is a CUDA device")
    assert "error: device: cuda was asked for" in text
    assert not (clone / target).exists()


def test_the_page_opens_without_network_and_shows_pictures(clone, tmp_path):
    page = clone / "results_smoke/report.html"
    text = page.read_text()
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//|url\((?!data:|#)""", text)
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run --disable-sync".split()
    )
    probe = tmp_path / "probe.html"
    script = """<script>addEventListener("load", () => { const q = s => [...document.querySelectorAll(s)];
      const wide = q(".picture").filter(e => getComputedStyle(e).backgroundImage.startsWith("url(\\"data:image/webp"));
      const broad = q("figure svg").filter(e => e.getBoundingClientRect().width > 100);
      document.title = ["probe", q(".query").length, q(".item").length, q(".hit").length, wide.length,
        q(".picture").length, broad.length].join(" "); });</script></body>"""
    probe.write_text(text.replace("</body>", script))
    command = [browser, *flags, f"--user-data-dir={tmp_path}/profile", "--dump-dom", probe.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    _, queries, items, hits, shown, pictures, figures = (
        re.search(r"<title>(probe [\d ]+)</title>", dom).group(1).split()
    )
    assert int(queries) == 9 * 3
    assert int(items) == 9 * 3 * (1 + 5 * 2)  # the query, and five candidates of each of two recipes
    assert int(hits) > 0
    assert shown == pictures != "0"
    assert int(figures) == 7


def test_all_benchmarks_run_on_the_fixtures(clone):
    """With one backbone, that of native fusion, to be quick; test_kills.py has two of them with the other."""
    fixtures = ["--configfile", "config/fixtures.yaml"]
    edited(clone / "config/fixtures.yaml", "backbones: [clip_lite, vista_lite]", "backbones: [vista_lite]")
    copied(clone / "results_smoke/onnx/vista_lite/towers", clone / "results_fixtures/onnx/vista_lite/towers")
    snakemake(clone, "--cores", "2", *fixtures)
    results = clone / "results_fixtures"
    with (results / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pools = {(r["benchmark"], r["pool"]) for r in rows}
    assert pools == {
        *((name, pool) for name in ("mbeir_fixture", "mbeir_first_fixture") for pool in ("local", "global")),
        ("mmeb_fixture", "official"), ("mmeb_fixture", "mixed"), ("covr_fixture", "all"), ("cirr_fixture", "split"),
        ("cirr_fixture", "subset"), ("fashioniq_fixture", "split"), ("circo_fixture", "all"),
        ("mixbench_fixture", "local"), ("m2kr_fixture", "local"), ("mmdocir_fixture", "document"),
        ("mmdocir_fixture", "all"), ("tiir_fixture", "all"), ("anycir_fixture", "all"),
    }  # fmt: skip
    assert len({(r["benchmark"], r["task"]) for r in rows}) == 16 + 16 + 6 + 1 + 1 + 3 + 2 + 4 + 4 + 2 + 1 + 18
    assert {r["n"] for r in rows if r["benchmark"] == "covr_fixture"} == {"6"}  # dead videos stay in the denominator
    assert {r["n"] for r in rows if r["task"] == "visualnews_task3"} == {"3"}
    table = (results / "tables/mbeir.md").read_text()
    assert "Queries that could not be used and count as misses: 1." in table
    assert table.index("visualnews_task0") < table.index("mscoco_task0") < table.index("infoseek_task8")
    assert {"prompts none, calibration none", "prompts first, calibration none"} <= set(
        re.findall("prompts [^|]*none", table)
    )
    documents = {"m2kr_fixture", "mmdocir_fixture", "tiir_fixture", "anycir_fixture"}
    assert {p.stem for p in (results / "tables").glob("*.csv")} == {
        "mbeir",
        "mmeb",
        "covr",
        "mixbench_fixture",
        *documents,
    }
    uploads = sorted(p.name for p in results.glob("submissions/vista_lite/*/cirr_test1_fixture/*.none.*"))
    assert uploads == ["recall.none.seed0.json", "recall_subset.none.seed0.json"]
    own = json.loads((results / "shared/mbeir_first_fixture/own.json").read_text())
    assert own["images"] == 0  # all were embedded for mbeir_fixture
    assert own["texts"] > 0  # those with a prompt
    assert (results / "tables/mbeir.tex").read_text().count(r"\begin{tabular}") == 6
    assert "Nothing to be done" in snakemake(clone, "-n", *fixtures)
    verifying = ["gcl.report", "--verify", "config/fixtures.yaml"]
    assert "every table in results_fixtures is what its runs give" in gcl(clone, *verifying)
    edited(results / "tables/covr.md", "| vista_lite pretrained_smoke |", "| vista_lite pretrained_smoke! |")
    done = gcl(clone, *verifying, ok=False)
    assert "error: the tables in results_fixtures are not those of the runs" in done
    assert "results_fixtures/tables/covr.md: 2 lines differ" in done
