"""What a process computes on: a device, the GPU that is its own where there are several, the cores of its threads."""

import ctypes
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import IO, TypeVar

log = logging.getLogger(__name__)
S = TypeVar("S")
T = TypeVar("T")

POLL_S = 1.0
NO_CUDA = "device: cuda was asked for, but there is no CUDA device; set `device: auto` or `device: cpu`"
held: list[IO[str]] = []  # the lock on this process' GPU, until it ends


def has_cuda() -> bool:
    """Ask the driver for a device. onnxruntime's own list of providers names CUDA without any GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def cores() -> int:
    """Count the CPU's that this process may use; macOS can't tell, and counts all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(function: Callable[[S], T], items: Sequence[S], threads: int, ahead: int) -> Iterator[T]:
    """Yield what a function makes of items, in their order; `ahead` of them at a time, since all may be too many."""
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(items), ahead):
            yield from pool.map(function, items[start : start + ahead])


@cache
def resolve(device: str) -> str:
    """Turn auto into cuda or cpu; the choice is logged, once."""
    if device == "auto":
        device = "cuda" if has_cuda() else "cpu"
        log.info("device: auto chose %s", device)
    return device


def visible_gpus() -> list[str]:
    """Name the GPUs (or MIG instances) that this process may use, as CUDA_VISIBLE_DEVICES does."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def claim_gpu(folder: Path | None = None) -> None:
    """Make one of several visible GPUs this process' own, so that jobs side by side don't share one.

    The claim is a lock that ends with the process. It must be made before anything initialises CUDA. Under torchrun,
    which gives its processes their GPUs, and where there is one GPU at most, there is nothing to do.
    """
    names = visible_gpus()
    if len(names) < 2 or "LOCAL_RANK" in os.environ:
        return
    folder = folder or Path(tempfile.gettempdir()) / f"gcl-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True, mode=0o700)
    while True:
        for name in names:
            file = (folder / name.replace("/", "_")).open("w", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            held.append(file)
            os.environ["CUDA_VISIBLE_DEVICES"] = name
            log.info("GPU %s of %s", name, ", ".join(names))
            return
        time.sleep(POLL_S)
