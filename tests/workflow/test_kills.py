"""SIGKILL at any moment: a second run ends as an undisturbed one does, without a human in between."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gcl.common.files import HELD, atomic_path, locked, sweep
from support.workflow import (
    ARGUMENTS,
    CONFIG,
    ROOT,
    copied,
    gcl,
    outcome,
    run_undisturbed,
    snakemake,
)

FULL = {"name": "full", "recipes": ["gcl_full_smoke"], "seeds": [0], "calibrations": ["none"]}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run_undisturbed(tmp_path_factory.mktemp("kills"), CONFIG)


@pytest.fixture(scope="module")
def undisturbed_full(tmp_path_factory):
    """With full training, which has states from which it goes on."""
    config = CONFIG | {"experiments": [*CONFIG["experiments"], FULL]}
    return run_undisturbed(tmp_path_factory.mktemp("kills_full"), config)


def begin(clone):
    """Start the workflow in a session of its own."""
    environment = {**os.environ, "PYTHONPATH": str(clone / "src")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-m", "snakemake", *ARGUMENTS]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=clone, env=environment, start_new_session=True, **quiet)


def killed_and_gone_on(undisturbed, kills, seed):
    """Kill the workflow at random moments until it was killed so many times, then let it end."""
    clone, duration = undisturbed
    expected = outcome(clone)
    rng, done = random.Random(seed), 0  # noqa: S311
    shutil.rmtree(clone / "results_kills")
    copied(clone / "towers", clone / "results_kills/onnx")
    while done < kills:
        process = begin(clone)
        try:
            process.wait(rng.uniform(0.5, max(3.0, 1.5 * duration / kills)))
            assert process.returncode == 0
            shutil.rmtree(clone / "results_kills")  # it was quicker: begin anew
            copied(clone / "towers", clone / "results_kills/onnx")
            continue
        except subprocess.TimeoutExpired:
            done += 1
        if rng.random() < 0.5:  # everything at once, as when a machine goes down
            os.killpg(process.pid, signal.SIGKILL)
        else:  # Snakemake alone: its jobs run on while it is started again
            process.kill()
        process.wait()
    text = snakemake(clone, *ARGUMENTS)
    assert "Nothing to be done" in text or "100%" in text
    assert outcome(clone) == expected
    assert "Nothing to be done" in snakemake(clone, "-n", *ARGUMENTS)
    hidden = [p for p in (clone / "results_kills").rglob(".*") if p.name != ".snakemake_timestamp"]
    return [p for p in hidden if p.name.endswith(".unfinished") or p.name == HELD]


def test_killed_twice(undisturbed):
    assert killed_and_gone_on(undisturbed, 2, 0) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_killed_twenty_times_in_four_runs(undisturbed_full, seed):
    assert killed_and_gone_on(undisturbed_full, 5, seed) == []


def test_a_second_snakemake_on_the_same_results_is_refused(undisturbed):
    clone, _ = undisturbed
    with locked(clone / "results_kills/.snakemake.lock"):
        text = snakemake(clone, *ARGUMENTS, "--forcerun", "first", ok=False)
    assert "another process holds results_kills/.snakemake.lock; wait until it ends, or end it" in text
    snakemake(clone, *ARGUMENTS, "--forcerun", "first", "--allowed-rules", "first", "all")


def test_what_a_killed_process_left_half_written_is_swept_away(tmp_path):
    writing = "import sys, time; from pathlib import Path; from gcl.common.files import atomic_path\n"
    writing += (
        "with atomic_path(Path(sys.argv[1])) as path: path.write_text('x'); print(path, flush=True); time.sleep(30)"
    )
    command = [sys.executable, "-c", writing, str(tmp_path / "below/file")]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    half = Path(other.stdout.readline().strip())
    sweep(tmp_path)
    assert half.read_text() == "x"  # its process lives
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert half.exists()
    sweep(tmp_path)
    assert [*(tmp_path / "below").iterdir()] == []
    with atomic_path(tmp_path / "below/file") as path:
        path.write_text("y")
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["file"]


def test_a_lock_is_waited_for_and_removed(tmp_path):
    path = tmp_path / "x.lock"
    holding = "import sys, time; from pathlib import Path; from gcl.common.files import locked\n"
    holding += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(30)"
    other = subprocess.Popen([sys.executable, "-c", holding, str(path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=r"another process holds .*x\.lock"), locked(path, wait=False):
        pass
    started = time.monotonic()
    os.kill(other.pid, signal.SIGKILL)  # a kill releases it, though the file stays
    with locked(path):
        assert time.monotonic() - started < 20
    other.wait()
    assert not path.exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("can't mount a tmpfs here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_an_error_that_leaves_nothing(small_disk):
    old = small_disk / "x.bin"
    old.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"), atomic_path(old) as temporary:
        temporary.write_bytes(bytes(3 << 20))
    assert old.read_bytes() == b"old"
    assert [path.name for path in small_disk.iterdir()] == ["x.bin"]


def test_a_full_disk_stops_a_stage_with_its_name_and_the_next_run_goes_on(small_disk, tmp_path):
    arguments = ["gcl.prepare", "--data", ROOT / "data/openclipart", "--reader", "pictures", "--max-pairs", "40"]
    (small_disk / "filler").write_bytes(bytes((1 << 20) - 8192))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", *map(str, arguments), "--output", str(small_disk / "p")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (small_disk / "p").exists()
    (small_disk / "filler").unlink()
    gcl(ROOT, *arguments, "--output", small_disk / "p")
    gcl(ROOT, *arguments, "--output", tmp_path / "p")
    for path in (tmp_path / "p").iterdir():
        assert (small_disk / "p" / path.name).read_bytes() == path.read_bytes()
