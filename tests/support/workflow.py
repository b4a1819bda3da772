"""Copies of the working tree, and the workflow run in them."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

from support.shared import shared

ROOT = Path(__file__).resolve().parents[2]


def copy_working_tree(to: Path) -> Path:
    """Copy the files git tracks or would track, as they are now."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, to / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return to


def snakemake(clone, *arguments, ok=True):
    sources = os.pathsep.join([str(clone / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": sources, "COLUMNS": "200"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-m", "snakemake", *arguments]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stderr[-5000:]
    return done.stdout + done.stderr


def gcl(clone, *arguments, ok=True):
    environment = {**os.environ, "PYTHONPATH": str(clone / "src")}
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stderr[-3000:]
    return done.stdout if ok else done.stderr


def copied(source, target):
    """Copy a folder; the copies are new, so that they are not made again."""
    shutil.copytree(source, target, copy_function=shutil.copy)


def lend_towers(clone, results, *arguments):
    """Put the exported towers of clip_lite there, for which another clone may have run the exporter."""
    towers = clone / results / "onnx/clip_lite/towers"

    def make():
        snakemake(clone, *arguments, "--", str(towers.relative_to(clone)))
        return towers

    found = shared(clone, "towers", make)
    if not towers.exists():
        copied(found, towers)


CONFIG = {
    "backbones": ["clip_lite"],
    "benchmarks": ["mbeir_fixture", "mbeir_first_fixture", "covr_fixture"],
    "experiments": [
        {"name": "main", "recipes": ["pretrained_smoke"], "seeds": [0], "calibrations": ["none", "center"]}
    ],
    "shards": {"mbeir_fixture": 2},
    "max_pairs": 64,
    "resamples": 50,
    "results": "results_kills",
}


ARGUMENTS = ["--cores", "2", "--configfile", "kills.yaml"]


def outcome(clone):
    """What a user reads: every table, and the scores."""
    results = clone / "results_kills"
    paths = [results / "scores.csv", *sorted((results / "tables").glob("*"))]
    return {path.name: path.read_bytes() for path in paths}


def run_undisturbed(clone, config):
    """Run everything in a copy; return the copy and how long that took from the towers on."""
    copy_working_tree(clone)
    shutil.rmtree(clone / "results", ignore_errors=True)
    (clone / "kills.yaml").write_text(yaml.safe_dump(config))
    lend_towers(clone, "results_kills", *ARGUMENTS)
    copied(clone / "results_kills/onnx", clone / "towers")
    started = time.monotonic()
    snakemake(clone, *ARGUMENTS)
    return clone, time.monotonic() - started
