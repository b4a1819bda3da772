"""What the scripts share: peers in turns, medians with spread, memory beyond what was there, the file of results."""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = ("torch", "numpy", "onnxruntime-gpu", "open_clip_torch", "faiss-cpu", "snakemake")
RESULTS = Path("results/benchmarks")


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
        return f"{self.median * scale:.3g} {unit} [{min(self.seconds) * scale:.3g}, {max(self.seconds) * scale:.3g}]"

    def over(self, peer: "Times") -> str:
        """Format the ratio to a peer, of the same turns: median [least, most]."""
        ratios = [a / b for a, b in zip(self.seconds, peer.seconds, strict=True)]
        return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def in_turns(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Times]:
    """Time works one after the other, again and again, so that a busy moment of the machine hits all of them."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if turn:  # the first is for warming up
                found[name].append(time.perf_counter() - started)
    return {name: Times(seconds) for name, seconds in found.items()}


def growth(work: Callable[[], object]) -> float:
    """Return by how many megabytes a work's peak is above what the process had before it (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the earlier peak
    before = status("VmRSS")
    work()
    return round((status("VmHWM") - before) / 1024, 1)


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
    return {"processor": names[0] if names else platform.machine(), "cores": len(os.sched_getaffinity(0))} | versions


def table(caption: str, columns: list[str], rows: list[list[Any]]) -> dict[str, Any]:
    """Return a table as the file holds it."""
    return {"caption": caption, "columns": columns, "rows": [[str(cell) for cell in row] for row in rows]}


def write(name: str, title: str, tables: list[dict[str, Any]], **values: Any) -> None:
    """Write results/benchmarks/<name>.json: tables as they are shown, and the numbers behind them."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    found = {"title": title, "machine": machine(), "tables": tables} | values
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    for one in tables:
        print(one["caption"], "|".join(one["columns"]), *("|".join(row) for row in one["rows"]), sep="\n", flush=True)


def arguments(about: str | None, **defaults: Any) -> argparse.Namespace:
    """Parse --repeats and what a script has besides."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in defaults.items():
        many = {"nargs": "+", "type": type(value[0])} if isinstance(value, list) else {"type": type(value)}
        parser.add_argument(f"--{name}", default=value, help=f"{value}", **many)
    return parser.parse_args()
