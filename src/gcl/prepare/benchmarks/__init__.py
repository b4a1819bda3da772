"""Readers of benchmarks: from a data set's files to items, tasks and qrels.

A reader takes the folder of the annotations, the folder of the images, and the benchmark's row.
"""

from collections.abc import Callable
from pathlib import Path

from gcl.config.benchmarks import Benchmark
from gcl.data.items import Contents
from gcl.prepare.benchmarks.circo import read_circo
from gcl.prepare.benchmarks.cirr import read_cirr
from gcl.prepare.benchmarks.clipart9 import read_clipart9
from gcl.prepare.benchmarks.covr import read_covr
from gcl.prepare.benchmarks.fashioniq import read_fashioniq
from gcl.prepare.benchmarks.mbeir import read_mbeir
from gcl.prepare.benchmarks.mmeb import read_mmeb

READERS: dict[str, Callable[[Path, Path, Benchmark], Contents]] = {
    "clipart9": read_clipart9,
    "mbeir": read_mbeir,
    "mmeb": read_mmeb,
    "covr": read_covr,
    "cirr": read_cirr,
    "fashioniq": read_fashioniq,
    "circo": read_circo,
}
