"""The five commands of docs/pairs.md, from a folder of pictures to a search, on pictures of the demo."""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from gcl.data.records import read_parquet
from support.workflow import ROOT, copy_working_tree, gcl, lend_towers

PAIRS = 400
RECIPES = ["pretrained", "cl_t05"]  # of config/own.yaml's six, to be quick


def pictures(folder):
    """Lay out some of the demo's training pictures with their titles as a user would."""
    folder.mkdir()
    table = read_parquet(ROOT / "data/openclipart/pictures.parquet", ["picture_id", "split", "title", "image"])
    for row in [row for row in table.to_pylist() if row["split"] == "train"][:PAIRS]:
        name = re.sub(r"\W", "_", row["picture_id"])
        (folder / f"{name}.webp").write_bytes(row["image"])
        (folder / f"{name}.txt").write_text(f"{row['title']}, café", encoding="utf-8")


def test_five_commands_go_from_a_folder_of_pictures_to_a_search(tmp_path):
    clone = copy_working_tree(tmp_path / "clone")
    pictures(clone / "data/mine")
    config = yaml.safe_load((clone / "config/own.yaml").read_text())
    main = config["experiments"][0] | {"recipes": RECIPES, "seeds": [0]}
    (clone / "config/own.yaml").write_text(yaml.safe_dump(config | {"experiments": [main], "resamples": 50}))
    commands = (ROOT / "docs/pairs.md").read_text().split("```sh\n")[1].split("```")[0]
    assert len(re.findall(r"^\w", commands, re.MULTILINE)) == 5
    ascii_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # nothing depends on it
    lend_towers(clone, "results_mine", "--cores", "2", "--configfile", "config/own.yaml")
    environment = os.environ | ascii_locale | {"PYTHONPATH": str(clone / "src")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(["bash", "-euc", commands], cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    assert f"{PAIRS} found" in done.stdout
    summary = (clone / "results_mine/tables/summary.md").read_text(encoding="utf-8")
    assert re.search(r"^\| clip_lite cl_t05 \| \d+\.\d \[", summary, re.MULTILINE)
    assert f"{PAIRS} added" in done.stdout
    assert len(re.findall(r"^ +\d\.\d{3}  image_text  \S+\.webp  .*, café$", done.stdout, re.MULTILINE)) == 10
    held = read_parquet(clone / "results_mine/prepared/mine/held_out/pairs.parquet")
    assert len(held) == 100
    page = (clone / "results_mine/report.html").read_text(encoding="utf-8")
    assert "What own pairs finds" in page
    assert page.count("<figure>") >= 5
    assert ", café" in page
    gcl(clone, "gcl.report", "--verify", "config/own.yaml")
    (clone / "data/mine" / sorted(path.name for path in (clone / "data/mine").glob("*.txt"))[0]).write_text("edited")
    assert "data/mine holds other files than" in gcl(clone, "gcl.report", "--verify", "config/own.yaml", ok=False)
