"""The whole workflow on a tiny part of the demo, in a copy of the working tree."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import copy_working_tree

from gcl.score import COLUMNS

SMOKE = ["--configfile", "config/smoke.yaml"]


def snakemake(clone, *arguments, ok=True):
    environment = {**os.environ, "PYTHONPATH": str(clone / "src"), "COLUMNS": "200"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-m", "snakemake", *arguments]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stderr[-5000:]
    return done.stdout + done.stderr


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
    expected = {"pretrained_smoke": 4, "gcl_smoke": 4, "gcl_full_smoke": 1, "gcl_smoke_t05": 1}
    for recipe, runs in expected.items():
        assert sum(r["recipe"] == recipe for r in rows) == runs * 72
    assert all(0 <= float(r["ci_low"]) <= float(r["value"]) <= float(r["ci_high"]) <= 1 for r in rows)
    for name in (
        "tables/clipart9.md",
        "tables/clipart9.csv",
        "tables/summary.md",
        "figures/projection.svg",
        "report.html",
    ):
        assert (results / name).stat().st_size > 500
    assert (results / "manifests/clip_lite/gcl_smoke/train.json").exists()
    assert (results / "onnx/clip_lite/gcl_full_smoke/seed0/export.json").exists()


def test_a_second_run_does_nothing(clone):
    assert planned(clone) == {}


def test_touching_files_re_runs_nothing(clone):
    for path in [
        *clone.glob("src/gcl/*.py"),
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
    assert planned(clone) == {"train": 1, "export": 1, "infer": 1, "retrieve": 1, "score": 1, "report": 1}
    path.write_text(before)
    assert planned(clone) == {}


def test_an_edit_of_score_re_runs_scoring_and_the_report_only(clone):
    path = clone / "src/gcl/score.py"
    before = path.read_text()
    path.write_text(before + "\n# edited\n")
    assert planned(clone) == {"score": 4, "report": 1}
    path.write_text(before)
    assert planned(clone) == {}


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
        shutil.copytree(clone / "results_smoke" / kept, clone / "results_cuda" / kept)
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
    assert int(figures) == 8
