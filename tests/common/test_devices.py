"""Which GPU a job takes where there are several."""

import os
import subprocess
import sys

import pytest

from gcl.common import devices
from gcl.common.devices import claim_gpu, visible_gpus

CLAIM = "import sys, time; from pathlib import Path; from gcl.common.devices import claim_gpu; import os\n"
CLAIM += "claim_gpu(Path(sys.argv[1])); print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"


def claimed(folder, gpus):
    """A process that claims a GPU and holds it until its input ends."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": gpus}
    environment.pop("LOCAL_RANK", None)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", CLAIM, str(folder)], env=environment, **pipes)


def test_jobs_side_by_side_take_different_gpus_and_the_next_waits_for_one(tmp_path):
    gpus = "0,MIG-1/2/3"
    first, second = claimed(tmp_path, gpus), claimed(tmp_path, gpus)
    assert {first.stdout.readline(), second.stdout.readline()} == {"0\n", "MIG-1/2/3\n"}
    third = claimed(tmp_path, gpus)
    first.kill()  # a kill sets its GPU free
    name = third.stdout.readline()
    first.wait()
    assert name in ("0\n", "MIG-1/2/3\n")
    for process in (second, third):
        process.communicate("")


@pytest.mark.parametrize(("given", "expected"), [("0,1", ["0", "1"]), ("", []), ("GPU-x", ["GPU-x"])])
def test_visible_gpus_are_those_that_cuda_would_see(monkeypatch, given, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == expected


@pytest.mark.parametrize(
    "variables", [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "0,1", "LOCAL_RANK": "1"}]
)
def test_one_gpu_or_torchrun_needs_no_claim(monkeypatch, tmp_path, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    claim_gpu(tmp_path)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == variables["CUDA_VISIBLE_DEVICES"]
    assert not devices.held
