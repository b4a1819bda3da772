"""Rank the pools of a benchmark for every query, exactly.

In:  a prepared benchmark, tower outputs of its images and texts (seed0/, ...), the exported model.
Out: a run as Parquet: seed, task, pool, calibration, query_id, candidate_id, rank, score; on request the
     same as TREC files, one per seed, task, pool and calibration.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gcl import calibrate
from gcl.calibrate import MODALITIES
from gcl.command import parser, run
from gcl.encoder import read_export
from gcl.files import atomic_path
from gcl.fusion import FUSIONS, Floats, Outputs, read_outputs, release
from gcl.items import Task
from gcl.prepared import PreparedBenchmark, read_benchmark
from gcl.progress import progress
from gcl.ranking import best_of_blocks, expanded, members_of, rank_list
from gcl.records import Ints, fused_keys, to_codes
from gcl.registry import lookup
from gcl.strict import made_by
from gcl.vectors import Distinct, Source, distinct_items, unit_vectors

BLOCK = 16384  # candidates that are fused and scored at a time


class Ranked(NamedTuple):
    """One pool ranked for every query of a task."""

    scores: list[Floats]  # per query, highest first
    rows: list[Ints]  # per query, rows of the pool


class Ranker:
    """Ranks the pools of a benchmark by one model; finds the distinct items of tables once for all calibrations."""

    def __init__(self, bench: PreparedBenchmark, source: Source, stats: Any) -> None:
        self.bench, self.source, self.stats = bench, source, stats
        self.known: dict[tuple[str, ...], Distinct] = {}

    def distinct(self, names: list[str]) -> Distinct:
        """Return the distinct items of tables."""
        key = tuple(names)
        if key not in self.known:
            self.known[key] = distinct_items([self.bench.tables[name] for name in names])
        return self.known[key]

    def vectors(self, items: Distinct, start: int, stop: int, mode: str) -> Floats:
        """Return unit vectors of some distinct items."""
        found = unit_vectors(items, start, stop, self.source, mode, self.stats)
        for array in self.source.outputs:
            release(array)
        return found

    def maps(self, queries: Distinct, candidates: Any, mode: str) -> tuple[Floats, Floats]:
        """Return factors and offsets (Q or 1, B) of the scores of all queries for candidates' modalities (B,)."""
        names = [MODALITIES[m] for m in candidates]
        found = np.unique(queries.modalities)
        rows = {m: calibrate.affine(mode, MODALITIES[m], names, self.stats) for m in found.tolist()}
        if len(found) == 1:
            factors, offsets = rows[int(found[0])]
            return factors[None], offsets[None]
        each = [rows[m] for m in queries.modalities.tolist()]
        return np.stack([f for f, _ in each]), np.stack([o for _, o in each])

    def rank(self, task: Task, pool: str, mode: str, k: int) -> Ranked:
        """Rank a pool: the whole of it, or each query's own list."""
        queries = self.distinct([task.queries])
        asked = self.vectors(queries, 0, len(queries.images), mode)
        if pool in task.listed:
            return self.rank_lists(task, pool, queries, asked, mode, k)
        items = self.distinct(task.pools[pool])
        size = len(items.images)
        out = self.bench.excluded[task.name]
        k_all = k + max(map(len, out.values()), default=0)

        def blocks() -> Iterator[tuple[int, Floats, Floats, Floats]]:
            for start in range(0, size, BLOCK):
                stop = min(start + BLOCK, size)
                vectors = self.vectors(items, start, stop, mode)
                yield start, vectors, *self.maps(queries, items.modalities[start:stop], mode)

        best, groups = best_of_blocks(asked, blocks(), k_all)
        members = members_of(items.rows, size)
        scores, rows = expanded(best[queries.rows], groups[queries.rows], members, k_all)
        return without(Ranked(scores, rows), self.excluded_rows(task, pool), k)

    def excluded_rows(self, task: Task, pool: str) -> list[set[int]]:
        """Return per query the rows of a pool that are not ranked for it."""
        out = self.bench.excluded[task.name]
        if not out:
            return []
        ids = pa.array(sorted(set().union(*out.values())), pa.string())
        found = pc.index_in(ids, value_set=self.bench.pool_ids(task, pool)).to_pylist()
        row_of = {item_id: row for item_id, row in zip(ids.to_pylist(), found, strict=True) if row is not None}
        return [{row_of[c] for c in out.get(query, ()) if c in row_of} for query in self.bench.queries(task)]

    def rank_lists(self, task: Task, pool: str, queries: Distinct, asked: Floats, mode: str, k: int) -> Ranked:
        """Rank each query's own list."""
        items = self.distinct(task.pools[pool])
        ids = self.bench.queries(task)
        lists = self.bench.lists[task.name, pool]
        own = [np.unique(items.rows[lists[query]], return_inverse=True) for query in ids]
        used, compact = np.unique(np.concatenate([u for u, _ in own]), return_inverse=True)
        part = items.part(used)
        vectors = self.vectors(part, 0, len(used), mode)
        ranked = Ranked([], [])
        at = 0
        for number, (query, (distinct, places)) in enumerate(zip(ids, own, strict=True)):
            chosen = compact[at : at + len(distinct)]
            at += len(distinct)
            asking = queries.rows[number]
            names = [MODALITIES[m] for m in part.modalities[chosen]]
            maps = calibrate.affine(mode, MODALITIES[queries.modalities[asking]], names, self.stats)
            scores, found = rank_list(asked[asking], vectors[chosen], places, *maps, k)
            ranked.scores.append(scores)
            ranked.rows.append(lists[query][found].astype(np.int64))
        return ranked


def without(ranked: Ranked, excluded: list[set[int]], k: int) -> Ranked:
    """Drop each query's excluded rows, and what is beyond k."""
    if not excluded:
        return ranked
    kept = [
        np.array([i for i, row in enumerate(rows.tolist()) if row not in out][:k], np.int64)
        for rows, out in zip(ranked.rows, excluded, strict=True)
    ]
    return Ranked(
        [s[i] for s, i in zip(ranked.scores, kept, strict=True)], [r[i] for r, i in zip(ranked.rows, kept, strict=True)]
    )


def run_table(task: Task, pool: str, mode: str, seed: int, ranked: Ranked, bench: PreparedBenchmark) -> pa.Table:
    """Return a ranking as rows of the run."""
    lengths = [len(rows) for rows in ranked.rows]
    rows = np.concatenate(ranked.rows)
    used, codes = np.unique(rows, return_inverse=True)
    queries = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    ids = bench.pool_ids(task, pool).take(pa.array(used)).combine_chunks()
    return pa.table(
        {
            "seed": pa.array(np.full(len(rows), seed, np.int16)),
            "task": constant(task.name, len(rows)),
            "pool": constant(pool, len(rows)),
            "calibration": constant(mode, len(rows)),
            "query_id": pa.DictionaryArray.from_arrays(queries, bench.tables[task.queries].ids),
            "candidate_id": pa.DictionaryArray.from_arrays(codes.astype(np.int32), ids),
            "rank": np.concatenate([np.arange(1, n + 1, dtype=np.int16) for n in lengths]),
            "score": np.concatenate(ranked.scores),
        }
    )


def constant(value: str, n: int) -> pa.DictionaryArray:
    """Return a column of one value."""
    return pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), [value])


def check_rows(bench: PreparedBenchmark, outputs: Outputs, combinations: int, folder: Path) -> None:
    """Raise ValueError if the embeddings are not of this benchmark, or not of one model."""
    images = 1 + max(int(t.image_rows.flatten().to_numpy().max(initial=-1)) for t in bench.tables.values())
    texts = 1 + max(int(t.text_rows.max()) for t in bench.tables.values())
    wanted_rows = (images, texts, combinations)
    for name, array, wanted in zip(("image", "text", "image_text"), outputs, wanted_rows, strict=True):
        if array is None:
            continue
        if len(array) != wanted:
            raise ValueError(
                f"{folder}/{name}.npy has {len(array)} rows, the benchmark {wanted}; delete it and run `infer` again"
            )
        for start in range(0, len(array), BLOCK):
            if not np.isfinite(array[start : start + BLOCK]).all():
                raise ValueError(f"{folder}/{name}.npy holds NaN or infinity; delete it and run `infer` again")
            release(array)
        if array.shape[1] != outputs.image.shape[1]:
            raise ValueError(
                f"{folder}: images are {outputs.image.shape[1]}-d and {name}s {array.shape[1]}-d; are they one model's?"
            )


def read_source(prepared: Path, embeddings: Sequence[Path], shared: Path | None, fusion: str) -> Source:
    """Read what a model made of a prepared benchmark."""
    lookup(dict.fromkeys(FUSIONS), str(fusion), "fusion", "src/gcl/fusion.py")
    outputs = read_outputs(embeddings, shared)
    keys = to_codes(*fused_keys(prepared).T) if outputs.fused is not None else np.empty(0, np.int64)
    return Source(outputs, keys, fusion)


def rank_seed(
    bench: PreparedBenchmark,
    prepared: Path,
    embeddings: Sequence[Path],
    shared: Path | None,
    onnx: Path,
    modes: list[str],
    k: int,
) -> Iterator[pa.Table]:
    """Yield the rankings of one seed for all calibrations, tasks and pools."""
    about = read_export(onnx)
    with made_by("export", onnx):
        stats = calibrate.from_dict(about["calibration"]) if "calibration" in about else None
        seed = int(about.get("seed", 0))
    if not 0 <= seed < 2**15:
        raise ValueError(f"{onnx}/export.json: seed {seed}, expected 0 to {2**15 - 1}")
    source = read_source(prepared, embeddings, shared, about["fusion"])
    check_rows(bench, source.outputs, len(source.keys), embeddings[-1])
    ranker = Ranker(bench, source, stats)
    for mode in modes:
        for task in progress(bench.tasks, f"rank ({mode})", "task"):
            for pool in task.pools:
                yield run_table(task, pool, mode, seed, ranker.rank(task, pool, mode, k), bench)


def lowered(score: np.float32) -> np.float32:
    """Return a slightly smaller score that float32 tells apart, also where denormal numbers are zero."""
    return min(np.nextafter(score, np.float32(-np.inf)), np.float32(score - np.float32(1e-12)))


def write_trec(run_table: pa.Table, folder: Path, name: str) -> None:
    """Write a TREC run file: query Q0 candidate rank score tag.

    Tools that read such files sort by the score, as float32, and break ties in ways of their own. So that they
    find our order, a score that ties with the one before is lowered by the least step that float32 has there, near
    zero by 1e-12: numbers far smaller are zero to some tools.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = {c: str(run_table[c][0].as_py()) for c in ("seed", "task", "pool", "calibration")}
    path = folder / f"{name}.{first['task']}.{first['pool']}.{first['calibration']}.seed{first['seed']}.trec"
    below = np.float32(np.inf)
    with path.open("w") as file:
        for query, candidate, rank, score in zip(
            *(run_table[c].to_pylist() for c in ("query_id", "candidate_id", "rank", "score")), strict=True
        ):
            below = np.float32(score) if rank == 1 else min(np.float32(score), lowered(below))
            file.write(f"{query} Q0 {candidate} {rank} {below:.9g} {name}\n")


def retrieve(
    prepared: Path,
    embeddings: list[Path],
    shared: Path | None,
    onnx: Path,
    calibrations: list[str],
    depth: int,
    trec: Path | None,
    output: Path,
) -> None:
    """Rank every pool for every query, seed and calibration.

    Raises:
        ValueError: embeddings of another benchmark, NaN in them, or no seed at all.
    """
    bench = read_benchmark(prepared, lists=True)
    if (embeddings[-1] / "image.npy").exists():
        models = [(embeddings, onnx)]
    else:
        seeds = [seed.name for seed in sorted(embeddings[-1].glob("seed*"))]
        models = [([folder / seed for folder in embeddings], onnx / seed) for seed in seeds]
    if not models:
        raise ValueError(f"{embeddings[-1]} holds neither image.npy nor folders of seeds; run `infer`")
    with atomic_path(output) as temporary:
        writer = None
        for folders, model in models:
            for table in rank_seed(bench, prepared, folders, shared, model, calibrations, depth):
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table, row_group_size=max(1, len(table)))  # one group per ranking, as `score` reads
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
    made.add_argument(
        "--embeddings",
        required=True,
        nargs="+",
        type=Path,
        help="what `infer` wrote: a model or its seeds; several parts in order, those of earlier benchmarks first",
    )
    made.add_argument("--shared", type=Path, help="what `share` wrote, if earlier benchmarks' embeddings are given")
    made.add_argument("--onnx", required=True, type=Path, help="the exported model or seeds it was made with")
    made.add_argument("--calibrations", nargs="+", default=["none"], choices=calibrate.MODES)
    made.add_argument("--depth", type=int, default=100, help="candidates kept per query")
    made.add_argument("--trec", type=Path, help="folder for TREC run files")
    made.add_argument("--output", required=True, type=Path, help="Parquet file to write")
    run(made, retrieve)


if __name__ == "__main__":
    main()
