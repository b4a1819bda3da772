"""How far the results of this machine are from the committed ones."""

import csv
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOLERANCE = 0.1  # percentage points between means on two machines; the last bits of embeddings differ
KEYS = 8  # columns of scores.csv that name a score: backbone to measure


def committed(path: Path) -> str | None:
    """Return a file as the last commit has it; None where there is none."""
    folder = path.parent if path.parent.exists() else Path()
    name = f"HEAD:./{path.name}"
    done = subprocess.run(["git", "show", name], cwd=folder, capture_output=True, text=True, encoding="utf-8")
    return done.stdout if done.returncode == 0 else None


def scores_of(text: str) -> dict[tuple[str, ...], str]:
    """Return the value of each score by its name."""
    _, *rows = csv.reader(io.StringIO(text))
    return {tuple(row[:KEYS]): row[KEYS] for row in rows}


def means_of(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of metrics.json by their path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from means_of(inner, f"{name}/{key}".strip("/"))
    else:
        yield name, float(value)


def compare(results: Path) -> str:
    """Say in a line how many scores differ from the committed ones, and by how much means do, in points."""
    before = [committed(results / name) for name in ("scores.csv", "metrics.json")]
    if before[0] is None or before[1] is None:
        return f"{results}: nothing of it is committed, so there is nothing to compare with"
    old, new = scores_of(before[0]), scores_of((results / "scores.csv").read_text(encoding="utf-8"))
    common = old.keys() & new.keys()
    differ = sum(old[key] != new[key] for key in common)
    line = f"{results}: {differ:,} of {len(common):,} scores differ from the committed ones"
    if alone := len(old.keys() ^ new.keys()):
        line += f"; {alone:,} are on one side only, since another config was run"
    then, now = (
        dict(means_of(json.loads(text))) for text in (before[1], (results / "metrics.json").read_text(encoding="utf-8"))
    )
    far = max((abs(then[name] - now[name]) for name in then.keys() & now.keys()), default=0.0)
    line += f"; means by {far:.2f} points at most, "
    if far <= TOLERANCE:
        return line + f"within the tolerance of {TOLERANCE} for another machine"
    return line + f"more than the tolerance of {TOLERANCE}: unless config or code were changed, something is wrong here"
