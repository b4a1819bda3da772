"""The workflow through a real Slurm of one node: wants root, Debian's slurm-wlm and munge, `pip install '.[slurm]'`."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from support.slurm_cluster import PROGRAMS, cluster
from support.training import close, command, pairs, recipe, row, run, weights  # noqa: F401 - fixtures among them
from support.workflow import ARGUMENTS, CONFIG, ROOT, copied, outcome, run_undisturbed, snakemake

missing = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing) or os.getuid() != 0, reason=f"no {', '.join(missing) or 'root'}"),
    pytest.mark.skipif(importlib.util.find_spec("snakemake_executor_plugin_slurm") is None, reason="no Slurm plugin"),
]
QUICK = ["--cores", "2", "--jobs", "4", "--latency-wait", "10", "--slurm-status-command", "squeue"]
QUICK += ["--seconds-between-status-checks", "2", "--slurm-init-seconds-before-status-checks", "1"]


def test_two_nodes_of_one_job_train_the_model_of_one_process(pairs, weights, tmp_path):
    """Two agents of torchrun that meet as those of two nodes do, in one Slurm job; here on one node."""
    plan = recipe({"chunk": 2}, max_steps=3)
    one, _ = run(row(), plan, pairs, weights, tmp_path / "one")
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:29513"]
    start = [sys.executable, "-m", "torch.distributed.run", *meet, "-m"]
    words = shlex.join([*start, *command(row(), plan, pairs, weights, tmp_path / "two")])
    batch = ["sbatch", "--wait", "--ntasks", "2", "--output", str(tmp_path / "out.log")]
    batch += ["--export", f"ALL,OMP_NUM_THREADS=1,PYTHONPATH={ROOT / 'src'}", "--wrap", f"srun --mpi=none {words}"]
    with cluster(tmp_path / "cluster"):
        done = subprocess.run(batch, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (tmp_path / "out.log").read_text()[-3000:]
    close(load_file(tmp_path / "two/seed0/open_clip_model.safetensors"), one, 2e-4)


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
