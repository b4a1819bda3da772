"""Start-up: commands that do nothing, and where the demo's time goes from a fresh clone on.

python benchmarks/startup.py [--demo FOLDER]    # keep the clone there; none: without the demo, which takes minutes
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gcl.cli import commands
from measure import Times, arguments, in_turns, table, write

FIRST = "results/done/first"
DRY = {
    "snakemake -n, demo": ["snakemake", "-n", "--quiet", "all"],
    "snakemake -n, config/paper.yaml": ["snakemake", "-n", "--quiet", "all", "--configfile", "config/paper.yaml"],
}


def quiet(command: list[str], folder: Path = Path()) -> None:
    """Run a command that must succeed; if it does not, show the end of what it said."""
    source = {"PYTHONPATH": str((folder / "src").resolve())}
    done = subprocess.run(command, cwd=folder, env=os.environ | source, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def helps(repeats: int) -> list[list[str]]:
    """Time `gcl <command> --help`."""
    lines = {name: [sys.executable, "-m", "gcl.cli", name, "--help"] for name in commands()}
    times = in_turns({name: lambda c=line: quiet(c) for name, line in lines.items()}, repeats)
    slowest = sorted(times, key=lambda name: -times[name].median)
    return [[f"gcl {name} --help", times[name].shown()] for name in slowest]


def demo(folder: Path) -> tuple[float, float, Times, list[list[Any]]]:
    """Run the demo in a fresh clone as `make run` does.

    Returns:
        Its seconds, those to its first table, those of a run that finds all done, and jobs by stage.
    """
    quiet(["git", "clone", "--quiet", ".", str(folder)])
    started = time.time()
    quiet(["snakemake", "--cores", "all", "--prioritize", FIRST], folder)
    seconds, first = time.time() - started, (folder / FIRST).stat().st_mtime - started
    again = in_turns({"again": lambda: quiet(["snakemake", "--cores", "all"], folder)}, 5)["again"]
    stages: dict[str, list[float]] = {}
    for path in (folder / "results/manifests").rglob("*.json"):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        stages.setdefault(manifest["command"].split()[-1], []).append(manifest["wall_time_s"])
    rows = sorted(
        ([name, len(t), round(sum(t), 1), round(max(t), 1)] for name, t in stages.items()), key=lambda r: -r[2]
    )
    return seconds, first, again, rows


def main() -> None:
    """Run from the command line."""
    given = arguments(__doc__, repeats=5, demo="")
    times = in_turns({name: lambda c=command: quiet(c) for name, command in DRY.items()}, given.repeats)
    rows = [[name, one.shown()] for name, one in times.items()]
    tables, values = [], {name: one.seconds for name, one in times.items()}
    if given.demo != "none":
        with tempfile.TemporaryDirectory() as folder:
            seconds, first, again, stages = demo(Path(given.demo or folder).absolute() / "clone")
        rows += [
            ["snakemake --cores all, nothing to do", again.shown()],
            ["the demo in a fresh clone", f"{seconds:.0f} s"],
            ["the demo's first table", f"{first:.0f} s"],
        ]
        columns = ["stage", "jobs", "seconds of all jobs", "of the longest"]
        tables.append(
            table("Where the demo's time goes; jobs run side by side, start of Python not counted", columns, stages)
        )
        values |= {"demo": [seconds], "first table": [first], "nothing to do": again.seconds}
    tables.insert(0, table("Commands", ["command", "time"], rows + helps(given.repeats)))
    write("startup", "Start-up", tables, values=values)


if __name__ == "__main__":
    main()
