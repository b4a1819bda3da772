"""Where results lie that several stages read: prepared benchmarks and their embeddings, in parts.

A benchmark that shares a data set with one before it in the config is embedded only where it is new (prepare/share.py);
a large one is embedded in shards. So a model's outputs for a benchmark are in several folders.
"""

import re
from pathlib import Path
from typing import NamedTuple

from gcl.config.project import Project

SHARD = re.compile(r"(.+)\.(\d+)of(\d+)")


class Place(NamedTuple):
    """A prepared benchmark with a model's embeddings of it."""

    prepared: Path
    embeddings: list[Path]  # in order, those of earlier benchmarks first
    shared: Path | None  # which rows of all are this benchmark's; none: all, in order


def earlier(project: Project, benchmark: str) -> list[str]:
    """List the benchmarks before one in the config that share a data set with it."""

    def datasets(name: str) -> set[str]:
        row = project.benchmarks[name]
        return {row.dataset, *([row.images.dataset] if row.images else [])}

    names = project.config.embedded
    before = names[: names.index(benchmark)]
    return [name for name in before if datasets(name) & datasets(benchmark)]


def to_embed(project: Project, name: str) -> str:
    """Return the folder of what is embedded of the training pairs or of a benchmark."""
    is_shared = name in project.config.embedded and earlier(project, name)
    return f"{project.config.results}/{'shared' if is_shared else 'prepared'}/{name}"


def part_names(project: Project, name: str) -> list[str]:
    """Name the parts in which the training pairs or a benchmark are embedded: <name>, or <name>.<k>of<n>."""
    count = project.config.shards.get(name, 1)
    return [name] if count == 1 else [f"{name}.{k}of{count}" for k in range(count)]


def split_part(part: str) -> tuple[str, int, int]:
    """Return the name, number and count of a part; a name may have dots of its own."""
    match = SHARD.fullmatch(part)
    return (match[1], int(match[2]), int(match[3])) if match else (part, 0, 1)


def place(project: Project, backbone: str, recipe: str, benchmark: str) -> Place:
    """Return where a benchmark and a model's embeddings of it lie."""
    before, results = earlier(project, benchmark), Path(project.config.results)
    names = [part for name in (*before, benchmark) for part in part_names(project, name)]
    folders = [results / "embeddings" / backbone / recipe / name for name in names]
    return Place(results / "prepared" / benchmark, folders, results / "shared" / benchmark if before else None)
