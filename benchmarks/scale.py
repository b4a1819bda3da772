"""What a collection costs from ten thousand to ten million candidates, measured, and to a billion by a line through it.

    python benchmarks/scale.py [--folder FOLDER]      # 12 GB of disk; FAISS: pip install faiss-cpu

A pool of random vectors is searched by `gcl retrieve` as a command of its own. Time, memory and disk are taken as
a + b * candidates. A line through the two middle sizes is held against the largest, which it has not seen; one through
the two largest goes beyond. A second table has FAISS' approximate indexes beside the exact search, on vectors whose
variance falls off over their directions, as that of models' does (in white noise nothing is near, and no index finds
it).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import gcl
import retrieval_memory
from measure import table, write
from retrieval_memory import QUERIES, measured

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
BEYOND = (100_000_000, 1_000_000_000)
WIDTH = 256  # of the demo's models
ANN, K = 1_000_000, 10


def cost(size: int, folder: Path) -> dict[str, float]:
    """Write a pool, search it, return seconds, peak MB of memory and MB of disk."""
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        subprocess.run([sys.executable, __file__, "--write", str(place), str(size)], check=True)
        models = ("--embeddings", place / "embeddings", "--onnx", place / "onnx")
        usage = measured("gcl.retrieve", "--prepared", place / "prepared", *models, "--output", place / "run.parquet")
        disk = sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
    finally:
        shutil.rmtree(place)
    return usage | {"disk_mb": disk / 2**20}


def line(sizes: list[int], values: list[float]) -> tuple[float, float]:
    """Return a and b of a + b * size through two points."""
    slope = (values[1] - values[0]) / (sizes[1] - sizes[0])
    return values[0] - slope * sizes[0], slope


def shown(value: float, unit: str) -> str:
    """Format seconds or MB in units that are read at a glance."""
    if unit == "s":
        return f"{value / 3600:.1f} h" if value >= 5400 else f"{value:.1f} s"
    for name in ("MB", "GB", "TB"):
        if value < 1000 or name == "TB":
            return f"{value:.3g} {name}"
        value /= 1024
    return ""


def growth_rows(folder: Path) -> tuple[list[list[str]], list[dict[str, float]]]:
    """Measure all sizes; add what the line says of the last and of those beyond."""
    costs = [cost(size, folder) for size in SIZES]
    units = {"seconds": "s", "peak_mb": "MB", "disk_mb": "MB"}
    rows = [
        [f"{size:,}", "measured", *(shown(row[key], unit) for key, unit in units.items())]
        for size, row in zip(SIZES, costs, strict=True)
    ]
    for first, sizes in ((1, SIZES[-1:]), (2, BEYOND)):
        lines = {key: line(list(SIZES[first:]), [row[key] for row in costs[first:]]) for key in units}
        how = f"by the line through {SIZES[first]:,} and {SIZES[first + 1]:,}"
        for size in sizes:
            rows.append([f"{size:,}", how, *(shown(a + b * size, units[key]) for key, (a, b) in lines.items())])
    return rows, costs


def coloured(n: int, seed: int) -> np.ndarray:
    """Return (n, WIDTH) unit vectors whose deviation along direction i falls as 1 / (1 + i) ** 0.7."""
    deviation = (1 + np.arange(WIDTH, dtype=np.float32)) ** -0.7
    vectors = np.random.default_rng(seed).standard_normal((n, WIDTH), np.float32) * deviation
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
    return (vectors @ turn) / np.linalg.norm(vectors, axis=1, keepdims=True)


def approximate_rows() -> list[list[str]]:
    """Compare FAISS' indexes with the exact ranking: share of the first ten found, time, bytes."""
    import faiss
    import torch

    faiss.omp_set_num_threads(torch.get_num_threads())

    vectors, queries = coloured(ANN, 0), coloured(QUERIES, 2)

    def timed(work: Any) -> tuple[float, Any]:
        work()
        started = time.perf_counter()
        result = work()
        return time.perf_counter() - started, result

    plain, (_, right) = timed(lambda: gcl.search(queries, vectors, K, "cpu"))
    rows = [["gcl.search (exact)", "–", "100.0", f"{1000 * plain:.0f} ms", "1.0", f"{4 * WIDTH}"]]
    for name, kind, probes, size in (
        ("IVF 1,024", "IVF1024,Flat", (4, 16, 64), 4 * WIDTH),
        ("IVF 1,024, 8 bits", "IVF1024,SQ8", (16, 64), WIDTH),
        ("IVF 1,024, 64 bytes of PQ", "IVF1024,PQ64", (16, 64), 64),
    ):
        index = faiss.index_factory(WIDTH, kind, faiss.METRIC_INNER_PRODUCT)
        started = time.perf_counter()
        index.train(vectors[:100_000])
        index.add(vectors)
        built = time.perf_counter() - started
        for probe in probes:
            index.nprobe = probe
            spent, (_, columns) = timed(lambda index=index: index.search(queries, K))
            recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(columns, right, strict=True)])
            times = [f"{100 * recall:.1f}", f"{1000 * spent:.0f} ms", f"{plain / spent:.1f}", str(size)]
            rows.append([f"{name}, {probe} probed", f"{built:.0f} s", *times])
    return rows


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the pools are written")
    parser.add_argument("--write", nargs=2, metavar=("FOLDER", "SIZE"), help="only write a pool")
    given = parser.parse_args()
    if given.write:
        retrieval_memory.WIDTH = WIDTH
        retrieval_memory.write_pool(Path(given.write[0]), int(given.write[1]))
        return
    rows, costs = growth_rows(given.folder)
    caption = (
        f"exact search, {QUERIES} queries, {WIDTH} numbers each, commands of their own; memory includes mapped files"
    )
    tables = [table(caption, ["candidates", "how", "time", "peak memory", "disk"], rows)]
    about = f"{ANN:,} vectors of {WIDTH} numbers whose variance falls off, {QUERIES} queries, first {K}"
    columns = ["index", "built in", "% of the right ones", "time", "times faster than exact", "bytes a vector"]
    tables.append(table(about, columns, approximate_rows()))
    write("scale", "Scale", tables, rows=costs)


if __name__ == "__main__":
    main()
