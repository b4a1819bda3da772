"""Readers of benchmarks: from a data set's files to items, tasks and qrels. A reader is a module here with a READER."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gcl.common.names import provided
from gcl.config.benchmarks import Benchmark
from gcl.data.items import Contents

Upload = tuple[str, dict[str, Any]]  # name and content of a file for an evaluation server


class Reader(NamedTuple):
    """How a benchmark is read, what its row may say of that, and what its evaluation server takes."""

    read: Callable[[Path, Path, Benchmark], Contents]  # folder of the annotations, folder of the images, the row
    options: type  # of the row's `options`
    upload: Callable[[str, str, dict[str, list[str]]], Upload | None] | None = None  # task, pool, query -> candidates
    upload_depth: int = 0  # candidates of a query that the server takes


def reader_of(name: str) -> Reader:
    """Return a reader by the name of its module, which is imported only now.

    Raises:
        UserError: there is no such reader; says which is close.
    """
    reader: Reader = provided("gcl.prepare.benchmarks", "READER", name, "benchmark reader")
    return reader
