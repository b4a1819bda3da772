"""Readers of benchmarks: from a data set's files to items, tasks and qrels."""

from collections.abc import Callable
from pathlib import Path

from gcl.benchmarks.clipart9 import read_clipart9
from gcl.records import Item, Qrel, Task

Benchmark = tuple[dict[str, list[Item]], list[Task], list[Qrel]]

READERS: dict[str, Callable[[Path, str], Benchmark]] = {"clipart9": read_clipart9}
