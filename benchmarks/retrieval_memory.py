"""Peak memory and time of `retrieve` and `score` against the size of the pool, on random vectors.

    python benchmarks/retrieval_memory.py [--sizes 10000 100000 1000000 5600000] [--folder FOLDER]

Each size is a prepared benchmark of texts in one pool, 512 numbers each, and 256 queries. Both stages run as commands
of their own; the peak is that of their resident memory, mapped files included.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcl.data.items import Contents, Item, Qrel, Task, write_benchmark
from gcl.infer.resumable import Growing
from measure import table, write

WIDTH, QUERIES, BLOCK = 512, 256, 100_000


def write_pool(folder: Path, size: int, queries: int = QUERIES) -> None:
    """Write a prepared benchmark, its random embeddings and a minimal model, without holding them in memory."""
    rng = np.random.default_rng(size)
    prepared, embeddings, onnx = folder / "prepared", folder / "embeddings", folder / "onnx"
    prepared.mkdir(parents=True)
    onnx.mkdir()
    query_items = [Item(f"q{k}", f"query {k}", ()) for k in range(queries)]
    task = Task("t", "text", "text", "query", {"all": ["pool"]}, headline="Success@10")
    qrels = [Qrel("t", f"q{k}", f"0:{k}") for k in range(queries)]
    first = Contents(
        {"query": query_items, "pool": [Item(f"0:{k}", f"text {k}", ()) for k in range(queries)]}, [task], qrels
    )
    write_benchmark(prepared, first, {}, {})
    schema = pq.read_schema(prepared / "items.parquet")
    head = pq.read_table(prepared / "items.parquet")
    with pq.ParquetWriter(prepared / "items.parquet", schema) as items:
        items.write_table(head)
        for start in range(queries, size, BLOCK):
            n = min(BLOCK, size - start)
            rows = range(start, start + n)
            columns = {
                "table": ["pool"] * n,
                "item_id": [f"0:{k}" for k in rows],
                "image_rows": [[]] * n,
                "weights": [[]] * n,
                "text_row": [k + queries for k in rows],
                "places": [[]] * n,
            }
            items.write_table(
                pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names})
            )
    grown = Growing(embeddings, "random", {"text": (size + queries, WIDTH), "image": (0, WIDTH)})
    for start in range(0, size + queries, BLOCK):
        n = min(BLOCK, size + queries - start)
        grown.append("text", start + n, {"text": rng.standard_normal((n, WIDTH), np.float32)})
    (onnx / "export.json").write_text(json.dumps({"fusion": "sum_raw", "seed": 0}))


def measured(*arguments: object) -> dict[str, float]:
    """Run a stage; return its peak memory and its time."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *map(str, arguments)], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{arguments[0]} failed")
    return {"peak_mb": round(usage.ru_maxrss / 1024, 1), "seconds": round(time.perf_counter() - started, 2)}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000, 5_600_000])
    parser.add_argument("--folder", type=Path, help="where the pools are written; 5.6 million take 12 GB")
    parser.add_argument("--write", nargs=2, metavar=("FOLDER", "SIZE"), help="only write a pool")
    arguments = parser.parse_args()
    if arguments.write:
        write_pool(Path(arguments.write[0]), int(arguments.write[1]))
        return
    rows = []
    for size in arguments.sizes:
        folder = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            # By a process of its own: a child's peak counts what its parent has.
            subprocess.run([sys.executable, __file__, "--write", str(folder), str(size)], check=True)
            paths = ("--prepared", folder / "prepared")
            run, where = folder / "run.parquet", ("--backbone", "x", "--recipe", "x", "--benchmark", "x")
            models = ("--embeddings", folder / "embeddings", "--onnx", folder / "onnx")
            retrieve = measured("gcl.retrieve", *paths, *models, "--output", run)
            scoring = ("--measures", "Success@10", "--output", folder / "scores")
            score = measured("gcl.score", "--run", run, *paths, *where, *scoring)
        finally:
            shutil.rmtree(folder)
        rows.append({"candidates": size, "queries": QUERIES, "width": WIDTH, "retrieve": retrieve, "score": score})
        print(json.dumps(rows[-1]), flush=True)
    columns = ["candidates", "retrieve: peak MB", "seconds", "score: peak MB", "seconds"]
    shown = [
        [f"{row['candidates']:,}", *(f"{row[stage][key]:.1f}" for stage in ("retrieve", "score") for key in row[stage])]
        for row in rows
    ]
    caption = f"{QUERIES} queries, {WIDTH} numbers each; commands of their own, mapped files count"
    write("retrieval_memory", "Memory of retrieval", [table(caption, columns, shown)], rows=rows)


if __name__ == "__main__":
    main()
