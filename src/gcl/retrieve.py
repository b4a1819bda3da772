"""Rank the pools of a benchmark for every query, exactly.

In:  a prepared benchmark, tower outputs of its images and texts (seed0/, ...), the exported model.
Out: a run as Parquet: seed, task, pool, calibration, query_id, candidate_id, rank, score; on request the
     same as TREC files, one per seed, task, pool and calibration.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gcl import calibrate
from gcl.command import parser, run
from gcl.files import atomic_path
from gcl.fusion import Floats, Outputs, read_outputs
from gcl.infer import read_export
from gcl.records import NO_TEXT, Combinations, PreparedBenchmark, Table, Task, read_benchmark

Ints = NDArray[np.int64]


def top_k(scores: Floats, k: int) -> tuple[Floats, Ints]:
    """Return the k best of each row of (Q, C) scores, ties to the lower column, exactly.

    Args:
        scores: (Q, C), no NaN.
        k: 1 <= k; at most C are returned.

    Returns:
        Scores (Q, min(k, C)), highest first, and columns (Q, min(k, C)).

    Raises:
        ValueError: k < 1, or a NaN.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected 1 or more")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    k = min(k, scores.shape[1])
    kth = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k]  # (Q,)
    best, columns = np.empty((len(scores), k), scores.dtype), np.empty((len(scores), k), np.int64)
    for i, row in enumerate(scores):
        found = np.flatnonzero(row >= kth[i])  # ascending, so a stable sort leaves ties in column order
        found = found[np.argsort(-row[found], kind="stable")][:k]
        best[i], columns[i] = row[found], found
    return best, columns


class Vectors(NamedTuple):
    """Unit vectors of the distinct items of one table, and where each item's lies."""

    distinct: Floats  # (U, D)
    rows: Ints  # (n,) into distinct
    modalities: list[str]  # (U,)


def item_vectors(
    table: Table, outputs: Outputs, combinations: Combinations, mode: str, fusion: str, stats: Any
) -> Vectors:
    """Fuse the items of a table; equal items share one vector, so they tie exactly.

    An item of several images has the mean of their outputs.
    """
    keys = list(zip(table.image_rows, table.text_rows, strict=True))
    order = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    modalities = [("image_text" if images else "text") if t != NO_TEXT else "image" for images, t in order]
    vectors = np.empty((len(order), outputs.text.shape[1]), np.float32)
    for modality in set(modalities):
        rows = [i for i, m in enumerate(modalities) if m == modality]
        chosen = [list(order)[i] for i in rows]
        images = texts = fused = None
        if modality == "image_text" and outputs.fused is not None:
            fused = np.stack([outputs.fused[[combinations[i, t] for i in images]].mean(0) for images, t in chosen])
        else:
            images = None if modality == "text" else np.stack([outputs.image[list(i)].mean(0) for i, _ in chosen])
            texts = None if modality == "image" else outputs.text[[t for _, t in chosen]]
        vectors[rows] = calibrate.vectors(images, texts, mode, fusion, stats, fused)
    return Vectors(vectors, np.array([order[key] for key in keys]), modalities)


def score_pool(query: Vectors, query_modality: str, pool: list[Vectors], mode: str, stats: Any) -> Floats:
    """Return (Q, C) scores of all queries against the tables of a pool, one after the other."""
    blocks = []
    for table in pool:
        factors, offsets = calibrate.affine(mode, query_modality, table.modalities, stats)
        scores = query.distinct @ table.distinct.T * factors + offsets  # (distinct Q, distinct C)
        blocks.append(scores[query.rows][:, table.rows])
    return np.concatenate(blocks, axis=1)


def rank_task(
    task: Task, bench: PreparedBenchmark, vectors: dict[str, Vectors], mode: str, stats: Any, k: int
) -> Iterator[pa.Table]:
    """Yield the ranking of each pool of a task."""
    queries = bench.tables[task.queries].ids
    for pool, names in task.pools.items():
        scores = score_pool(vectors[task.queries], task.query_modality, [vectors[n] for n in names], mode, stats)
        best, columns = top_k(scores, k)
        candidates = pa.array([i for name in names for i in bench.tables[name].ids])
        yield pa.table(
            {
                "task": constant(task.name, columns.size),
                "pool": constant(pool, columns.size),
                "calibration": constant(mode, columns.size),
                "query_id": pa.DictionaryArray.from_arrays(
                    np.repeat(np.arange(len(queries), dtype=np.int32), columns.shape[1]), queries
                ),
                "candidate_id": pa.DictionaryArray.from_arrays(columns.ravel().astype(np.int32), candidates),
                "rank": np.tile(np.arange(1, columns.shape[1] + 1, dtype=np.int16), len(queries)),
                "score": best.ravel(),
            }
        )


def constant(value: str, n: int) -> pa.DictionaryArray:
    """Return a column of one value."""
    return pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [value])


def check_rows(bench: PreparedBenchmark, outputs: Outputs, folder: Path) -> None:
    """Raise ValueError if the embeddings are not of this benchmark, or not finite."""
    images = 1 + max((row for t in bench.tables.values() for rows in t.image_rows for row in rows), default=-1)
    texts = 1 + max(row for t in bench.tables.values() for row in t.text_rows)
    wanted_rows = (images, texts, len(bench.combinations))
    for name, array, wanted in zip(("image", "text", "image_text"), outputs, wanted_rows, strict=True):
        if array is None:
            continue
        if len(array) != wanted:
            raise ValueError(
                f"{folder}/{name}.npy has {len(array)} rows, the benchmark {wanted}; delete it and run `infer` again"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{folder}/{name}.npy holds NaN or infinity; delete it and run `infer` again")
        if array.shape[1] != outputs.image.shape[1]:
            raise ValueError(
                f"{folder}: images are {outputs.image.shape[1]}-d and {name}s {array.shape[1]}-d; are they one model's?"
            )


def rank_seed(bench: PreparedBenchmark, embeddings: Path, onnx: Path, modes: list[str], k: int) -> Iterator[pa.Table]:
    """Yield the rankings of one seed for all calibrations, tasks and pools."""
    outputs = read_outputs(embeddings)
    check_rows(bench, outputs, embeddings)
    about = read_export(onnx)
    stats = calibrate.from_dict(about["calibration"]) if "calibration" in about else None
    seed = about.get("seed", 0)
    for mode in modes:
        vectors = {
            n: item_vectors(t, outputs, bench.combinations, mode, about["fusion"], stats)
            for n, t in bench.tables.items()
        }
        for task in bench.tasks:
            for table in rank_task(task, bench, vectors, mode, stats, k):
                yield table.add_column(0, "seed", pa.array(np.full(len(table), seed, np.int16)))


def write_trec(run_table: pa.Table, folder: Path, name: str) -> None:
    """Write TREC run files: query Q0 candidate rank score tag."""
    folder.mkdir(parents=True, exist_ok=True)
    first = {c: str(run_table[c][0].as_py()) for c in ("seed", "task", "pool", "calibration")}
    rows = zip(*(run_table[c].to_pylist() for c in ("query_id", "candidate_id", "rank", "score")), strict=True)
    path = folder / f"{name}.{first['task']}.{first['pool']}.{first['calibration']}.seed{first['seed']}.trec"
    path.write_text("".join(f"{q} Q0 {c} {r} {s:.8g} {name}\n" for q, c, r, s in rows))


def retrieve(
    prepared: Path, embeddings: Path, onnx: Path, calibrations: list[str], depth: int, trec: Path | None, output: Path
) -> None:
    """Rank every pool for every query, seed and calibration.

    Raises:
        ValueError: embeddings of another benchmark, NaN in them, or no seed at all.
    """
    bench = read_benchmark(prepared)
    if (embeddings / "image.npy").exists():
        models = [(embeddings, onnx)]
    else:
        models = [(seed, onnx / seed.name) for seed in sorted(embeddings.glob("seed*"))]
    if not models:
        raise ValueError(f"{embeddings} holds neither image.npy nor folders of seeds; run `infer`")
    with atomic_path(output) as temporary:
        writer = None
        for model in models:
            for table in rank_seed(bench, *model, calibrations, depth):
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table)
                if trec is not None:
                    write_trec(table, trec, output.stem)
        if writer is not None:
            writer.close()


def main() -> None:
    """Run from the command line."""
    made = parser(
        "retrieve", __doc__, "--prepared data/prepared/clipart9 --embeddings ... --onnx ... --output run.parquet"
    )
    made.add_argument("--prepared", required=True, type=Path, help="prepared benchmark")
    made.add_argument("--embeddings", required=True, type=Path, help="what `infer` wrote: a model or its seeds")
    made.add_argument("--onnx", required=True, type=Path, help="the exported model or seeds it was made with")
    made.add_argument("--calibrations", nargs="+", default=["none"], choices=calibrate.MODES)
    made.add_argument("--depth", type=int, default=100, help="candidates kept per query")
    made.add_argument("--trec", type=Path, help="folder for TREC run files")
    made.add_argument("--output", required=True, type=Path, help="Parquet file to write")
    run(made, retrieve)


if __name__ == "__main__":
    main()
