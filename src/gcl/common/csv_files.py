"""CSV files, written alike everywhere."""

import csv
from pathlib import Path
from typing import Any


def write_csv(path: Path, header: tuple[str, ...], lines: list[tuple[Any, ...]]) -> None:
    """Write a CSV file with line feeds."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])
