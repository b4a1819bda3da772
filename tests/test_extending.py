"""The diffs of docs/extending.md, applied to a copy of the working tree, and the commands below them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.workflow import ROOT, copy_working_tree

SECTIONS = re.findall(
    r"^## ([^\n]+)\n.*?^```diff\n(.*?)^```\n.*?^```sh\n(.*?)^```\n(?:\nprints, among others, `([^\n]+)`\.)?",
    (ROOT / "docs/extending.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


def test_there_are_seven():
    assert len(SECTIONS) == 7


@pytest.mark.parametrize(("title", "diff", "command", "expected"), SECTIONS, ids=[s[0] for s in SECTIONS])
def test_a_diff_applies_and_its_command_runs(tmp_path, title, diff, command, expected):
    clone = copy_working_tree(tmp_path / "clone")
    subprocess.run(["git", "apply", "-"], cwd=clone, input=diff, text=True, check=True)
    places = {line.split("/")[-1] for line in re.findall(r"^\+\+\+ b/(.*)", diff, re.MULTILINE)}
    assert len(places) <= (2 if title == "A benchmark" else 1), places
    environment = os.environ | {"PYTHONPATH": str(clone / "src")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(["bash", "-euc", command], cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert expected in done.stdout
