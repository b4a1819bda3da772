"""What the scripts share: peers in turns, medians with spread, memory beyond what was there, the file of results."""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = ("torch", "numpy", "onnxruntime-gpu", "open_clip_torch", "faiss-cpu", "snakemake")
PAUSE = 0.3  # seconds
options = argparse.Namespace(results=Path("results/benchmarks"), device="cpu")  # what `arguments` parsed


class Times(NamedTuple):
    """Seconds of every repeat."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Return the median."""
        return statistics.median(self.seconds)

    def shown(self) -> str:
        """Format as median [fastest, slowest], in seconds or milliseconds."""
        scale, unit = (1, "s") if self.median >= 1 else (1000, "ms")
        middle, least, most = (
            f"{x:.3g}" if x < 1000 else f"{x:.0f}"
            for x in (scale * self.median, scale * min(self.seconds), scale * max(self.seconds))
        )
        return f"{middle} {unit} [{least}, {most}]"

    def over(self, peer: "Times") -> str:
        """Format the ratio to a peer, of the same turns: median [least, most]."""
        ratios = [a / b for a, b in zip(self.seconds, peer.seconds, strict=True)]
        return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def in_turns(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Times]:
    """Time works one after the other, again and again, so that a busy moment of the machine hits all of them.

    A pause lets the threads of the one before fall asleep: OpenBLAS' wait busily for more work, a tenth of a second,
    and the next library has half a core less.
    """
    wait = synchronize()
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            time.sleep(PAUSE)
            started = time.perf_counter()
            work()
            wait()
            if turn:  # the first is for warming up
                times[name].append(time.perf_counter() - started)
    return {name: Times(seconds) for name, seconds in times.items()}


def synchronize() -> Callable[[], None]:
    """Return what waits for the device."""
    if options.device == "cpu":
        return lambda: None
    import torch

    return torch.cuda.synchronize


def growth(work: Callable[[], object]) -> float:
    """Return by how many megabytes a work's peak is above what the process, or the GPU, had before it (Linux)."""
    if options.device == "cuda":
        import torch

        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    Path("/proc/self/clear_refs").write_text("5")  # forget the earlier peak
    before = status("VmRSS")
    work()
    return round((status("VmHWM") - before) / 1024, 1)


def growth_alone(script: str, what: str) -> float:
    """Return `growth` of a script's work in a process of its own (`--memory what`), where nothing was used before."""
    command = [sys.executable, script, "--memory", what, "--device", options.device]
    return float(subprocess.check_output(command).split()[-1])


def status(key: str) -> int:
    """Return a line of /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def machine() -> dict[str, Any]:
    """Describe where it ran."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    facts = {"processor": names[0] if names else platform.machine(), "cores": len(os.sched_getaffinity(0))}
    if options.device == "cuda":
        import torch

        facts["gpu"] = torch.cuda.get_device_name()
    return facts | versions


def table(caption: str, columns: list[str], rows: list[list[Any]]) -> dict[str, Any]:
    """Return a table as the file holds it."""
    return {"caption": caption, "columns": columns, "rows": [[str(cell) for cell in row] for row in rows]}


def write(name: str, title: str, tables: list[dict[str, Any]], **values: Any) -> None:
    """Write <results>/<name>.json, on a GPU <name>_cuda.json: tables as they are shown, and the numbers behind them."""
    options.results.mkdir(parents=True, exist_ok=True)
    if options.device == "cuda":
        name, title = f"{name}_cuda", f"{title}, on a GPU"
    content = {"title": title, "machine": machine(), "tables": tables} | values
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (options.results / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    for one in tables:
        print(one["caption"], "|".join(one["columns"]), *("|".join(row) for row in one["rows"]), sep="\n", flush=True)


def arguments(about: str | None, **defaults: Any) -> argparse.Namespace:
    """Parse what a script has, --device and --results."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in defaults.items():
        many = {"nargs": "+", "type": type(value[0])} if isinstance(value, list) else {"type": type(value)}
        parser.add_argument(f"--{name}", default=value, help=f"{value}", **many)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where it runs (cpu)")
    parser.add_argument("--results", default=options.results, type=Path, help=f"folder to write to ({options.results})")
    parsed = parser.parse_args()
    options.results, options.device = parsed.results, parsed.device
    return parsed
