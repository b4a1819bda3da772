"""The workflow through a real Slurm of one node: wants root, Debian's slurm-wlm and munge, `pip install '.[slurm]'`."""

import importlib.util
import os
import shutil
import subprocess

import pytest
from slurm_cluster import PROGRAMS, cluster
from test_kills import ARGUMENTS, CONFIG, copied, outcome, run_undisturbed, snakemake

missing = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing) or os.getuid() != 0, reason=f"no {', '.join(missing) or 'root'}"),
    pytest.mark.skipif(importlib.util.find_spec("snakemake_executor_plugin_slurm") is None, reason="no Slurm plugin"),
]
QUICK = ["--cores", "2", "--jobs", "4", "--latency-wait", "10", "--slurm-status-command", "squeue"]
QUICK += ["--seconds-between-status-checks", "2", "--slurm-init-seconds-before-status-checks", "1"]


def test_slurm_gives_the_tables_of_a_local_run(tmp_path):
    clone, _ = run_undisturbed(tmp_path / "clone", CONFIG)
    expected = outcome(clone)
    shutil.rmtree(clone / "results_kills")
    copied(clone / "towers", clone / "results_kills/onnx")
    with cluster(tmp_path / "cluster"):
        text = snakemake(clone, "--workflow-profile", "profiles/slurm", *ARGUMENTS[2:], *QUICK)
        jobs = subprocess.run(
            ["squeue", "--noheader", "--states", "all", "--format", "%j %T"], capture_output=True, text=True
        )
    assert "100%" in text
    assert outcome(clone) == expected
    states = [line.split()[-1] for line in jobs.stdout.splitlines()]
    assert len(states) > 15
    assert set(states) == {"COMPLETED"}
