"""`snakemake --use-conda` with a stand-in for conda and a local channel: our wiring, not conda-forge's solve."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gcl.common.command import check_environment
from gcl.common.errors import UserError
from support.channel import write_channel
from support.workflow import ROOT, copy_working_tree

TARGET = "results_smoke/prepared/clipart9"


def test_the_conda_environment_has_the_versions_of_the_lock():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    dependencies = yaml.safe_load((ROOT / "workflow/envs/gcl.yaml").read_text())["dependencies"]
    assert dependencies == ["python=3.11", "pip", {"pip": pins}]
    assert all("==" in pin for pin in pins)


def test_every_rule_has_an_environment_and_says_what_it_needs():
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for name, body in re.findall(r"^rule (\w+):(.*?)(?=^rule|\Z)", path.read_text(), re.MULTILINE | re.DOTALL):
            for needed in ("conda:\n        ENVIRONMENT", "mem_mb=", "runtime=", "log:"):
                assert needed in body, f"{name} lacks {needed}"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    made = copy_working_tree(tmp_path_factory.mktemp("conda"))
    shutil.rmtree(made / "results", ignore_errors=True)
    # Snakemake sources `activate` by an unquoted path: the stand-in must lie where no space is.
    shutil.copytree(ROOT / "tests/support/conda/bin", made / "conda/bin")
    return made


def run(clone, *arguments):
    home = clone / "home"
    home.mkdir(exist_ok=True)
    (home / ".condarc").write_text("channel_priority: strict\n")
    path = [clone / "conda/bin", Path(sys.executable).parent, os.environ["PATH"]]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(map(str, path)),
        "HOME": str(home),
        "PYTHONPATH": str(clone / "src"),
    }
    environment["CONDA_CHANNELS"] = f"file://{clone}/channels"
    command = [sys.executable, "-m", "snakemake", "--configfile", "config/smoke.yaml", *arguments, "--", TARGET]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_jobs_run_in_the_environment_and_switching_re_runs_nothing(clone):
    write_channel(clone / "channels/conda-forge")
    text = run(clone, "--cores", "2", "--use-conda")
    assert "Activating conda environment" in text
    manifest = json.loads((clone / "results_smoke/manifests/prepare/clipart9.json").read_text())
    assert "/.snakemake/conda/" in manifest["machine"]["executable"]
    assert "Nothing to be done" in run(clone, "--cores", "2")
    assert "Nothing to be done" in run(clone, "--cores", "2", "--use-conda")


def test_a_job_outside_its_environment_is_an_error(monkeypatch):
    """As where `activate` fails without a word, for instance since its path holds a space."""
    monkeypatch.setenv("GCL_CONDA", "1")
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    with pytest.raises(UserError, match=r"runs .*python.*, which is not in the environment that --use-conda made"):
        check_environment()
    monkeypatch.setenv("CONDA_PREFIX", sys.prefix)
    check_environment()
