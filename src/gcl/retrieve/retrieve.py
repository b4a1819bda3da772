"""Rank the pools of a benchmark for every query, exactly.

In:  a prepared benchmark, tower outputs of its images and texts (seed0/, ...), the exported model.
Out: a run as Parquet: seed, task, pool, calibration, query_id, candidate_id, rank, score; on request the
     same as TREC files, one per seed, task, pool and calibration.

What a CPU is busy with for long is kept beside the output until it is written: a process that was killed goes on.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcl.common.arrays import FUSIONS
from gcl.common.command import digest, parser, run
from gcl.common.devices import NO_CUDA, claim_gpu, has_cuda
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, key_of, unfinished
from gcl.common.names import lookup
from gcl.common.progress import progress
from gcl.common.rows import made_by
from gcl.data.in_turns import items_in_turns
from gcl.data.prepared import PreparedBenchmark, read_benchmark
from gcl.data.records import fused_keys, to_codes
from gcl.infer.model_folder import read_export
from gcl.infer.store import read_outputs
from gcl.retrieve.biases import read_bank
from gcl.retrieve.calibration import MODES, read_calibration
from gcl.retrieve.item_vectors import ModelOutputs
from gcl.retrieve.run_file import STORED, run_table, write_trec
from gcl.retrieve.scan.pieces import Pieces
from gcl.retrieve.task_ranker import Ranker


def check_rows(bench: PreparedBenchmark, source: ModelOutputs, folder: Path) -> None:
    """Raise ValueError if the embeddings are not of this benchmark, or not of one model."""
    images = 1 + max(int(t.image_rows.flatten().to_numpy().max(initial=-1)) for t in bench.tables.values())
    texts = 1 + max(int(t.text_rows.max()) for t in bench.tables.values())
    outputs, wanted_rows = source.outputs, (images, texts, len(source.keys), len(source.in_turns))
    for name, array, wanted in zip(("image", "text", "image_text", "in_turns"), outputs, wanted_rows, strict=True):
        if array is None:
            continue
        if len(array) != wanted:
            raise UserError(
                f"{folder}/{name}.npy has {len(array)} rows, the benchmark {wanted}; delete it and run `infer` again"
            )
        if array.shape[1] != outputs.image.shape[1]:
            raise UserError(
                f"{folder}: images are {outputs.image.shape[1]}-d and {name}s {array.shape[1]}-d; are they one model's?"
            )


def read_source(
    prepared: Path, embeddings: Sequence[Path], shared: Path | None, fusion: str, late: int = 1
) -> ModelOutputs:
    """Read what a model made of a prepared benchmark."""
    lookup(dict.fromkeys(FUSIONS), str(fusion), "fusion", "src/gcl/common/arrays.py")
    outputs = read_outputs(embeddings, shared)
    keys = to_codes(*fused_keys(prepared).T) if outputs.fused is not None else np.empty(0, np.int64)
    in_turns = {item: row for row, item in enumerate(items_in_turns(prepared))} if outputs.in_turns is not None else {}
    return ModelOutputs(outputs, keys, fusion, late, in_turns)


class Model(NamedTuple):
    """One seed of what embedded a benchmark."""

    embeddings: list[Path]  # several parts in order
    onnx: Path
    calibration: Path | None  # file of its statistics


def rank_seed(
    bench: PreparedBenchmark,
    prepared: Path,
    model: Model,
    shared: Path | None,
    modes: list[str],
    k: int,
    device: str,
    pieces: Pieces,
) -> Iterator[pa.Table]:
    """Yield the rankings of one seed for all calibrations, tasks and pools."""
    about = read_export(model.onnx)
    stats = None if model.calibration is None else read_calibration(model.calibration)
    with made_by("export", model.onnx):
        seed, late = int(about.get("seed", 0)), int(about.get("late", 1))
    if not 0 <= seed < 2**15:
        raise UserError(f"{model.onnx}/export.json: seed {seed}, expected 0 to {2**15 - 1}")
    source = read_source(prepared, model.embeddings, shared, about["fusion"], late)
    check_rows(bench, source, model.embeddings[-1])
    bank = None if model.calibration is None else read_bank(model.calibration, modes)
    ranker = Ranker(bench, source, stats, device, bank, modes, pieces)
    for mode in modes:
        for task in progress(bench.tasks, f"rank ({mode})", "task"):
            for pool in task.pools:
                yield run_table(task, pool, mode, seed, ranker.rank(task, pool, mode, k), bench)


def calibration_of(onnx: Path, seed: str | None, chosen: Path | None, modes: list[str]) -> Path | None:
    """Return the file of statistics of a model, or of one of its seeds; None where no mode needs any.

    Raises:
        UserError: there is none.
    """
    if modes == ["none"]:
        return None
    if seed is not None and chosen is not None and chosen.is_file():
        raise UserError(f"--calibration {chosen} is of one model, expected the folder that holds {seed}.json and so on")
    folder = chosen or (onnx if seed is None else onnx / seed)
    name = f"{seed}.json" if seed is not None and chosen else "calibration.json"
    path = folder / name if folder.is_dir() else folder
    if not path.exists():
        raise UserError(
            f"calibration {', '.join(modes)} needs statistics of training pairs, and {path} does not exist; "
            f"run `gcl calibrate`, and give --calibration"
        )
    return path


def models_of(embeddings: list[Path], onnx: Path, calibration: Path | None, modes: list[str]) -> list[Model]:
    """Return the model that embedded, or its seeds.

    Raises:
        UserError: there is none, or none of the statistics that a mode needs.
    """
    if (embeddings[-1] / "image.npy").exists():
        return [Model(embeddings, onnx, calibration_of(onnx, None, calibration, modes))]
    seeds = [seed.name for seed in sorted(embeddings[-1].glob("seed*"))]
    if not seeds:
        raise UserError(f"{embeddings[-1]} holds neither image.npy nor folders of seeds; run `infer`")
    return [
        Model([part / seed for part in embeddings], onnx / seed, calibration_of(onnx, seed, calibration, modes))
        for seed in seeds
    ]


def key_of_run(prepared: Path, models: list[Model], shared: Path | None, modes: list[str], depth: int) -> str:
    """Name a run by what it is made of: embeddings, which may be large, by their files' times and sizes."""
    files = [path for model in models for part in model.embeddings for path in sorted(part.glob("*.npy"))]
    stamps = [(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files]
    others = [path for model in models for path in (model.onnx, model.calibration) if path is not None]
    hashes = [digest(path) for path in (prepared, *([] if shared is None else [shared]), *others)]
    return key_of(*stamps, *hashes, *modes, depth)


def retrieve(
    prepared: Path,
    embeddings: list[Path],
    shared: Path | None,
    onnx: Path,
    calibration: Path | None,
    calibrations: list[str],
    depth: int,
    device: str,
    trec: Path | None,
    output: Path,
) -> None:
    """Rank every pool for every query, seed and calibration.

    Raises:
        UserError: embeddings of another benchmark, NaN in them, or no seed at all.
    """
    if not 1 <= depth < 2**15:  # ranks have 16 bits
        raise UserError(f"--depth {depth}: expected 1 to {2**15 - 1}")
    if device == "cuda" and not has_cuda():  # also where no pool is large enough to be searched there
        raise UserError(NO_CUDA)
    if device != "cpu":
        claim_gpu()
    bench = read_benchmark(prepared, lists=True)
    models = models_of(embeddings, onnx, calibration, calibrations)
    key = partial(key_of_run, prepared, models, shared, calibrations, depth)
    with unfinished(output) as work, atomic_path(output) as temporary:
        writer, pieces = None, Pieces(work, key)
        for model in models:
            for table in rank_seed(bench, prepared, model, shared, calibrations, depth, device, pieces):
                writer = writer or pq.ParquetWriter(temporary, table.schema, **STORED)
                writer.write_table(table, row_group_size=max(1, len(table)))  # one group per ranking, as `score` reads
                if trec is not None:
                    write_trec(table, trec, output.stem)
        if writer is not None:
            writer.close()


def main() -> None:
    """Run from the command line."""
    options = parser(
        "retrieve",
        __doc__,
        "--prepared results/prepared/clipart9 --embeddings results/embeddings/clip_lite/cl_t05/clipart9"
        " --onnx results/onnx/clip_lite/cl_t05 --output run.parquet",
    )
    options.add_argument("--prepared", required=True, type=Path, help="prepared benchmark")
    options.add_argument(
        "--embeddings",
        required=True,
        nargs="+",
        type=Path,
        help="what `infer` wrote: a model or its seeds; several parts in order, those of earlier benchmarks first",
    )
    options.add_argument("--shared", type=Path, help="what `share` wrote, if earlier benchmarks' embeddings are given")
    options.add_argument("--onnx", required=True, type=Path, help="the exported model or seeds it was made with")
    options.add_argument("--calibration", type=Path, help="what `calibrate` wrote (the model's calibration.json)")
    options.add_argument("--calibrations", nargs="+", default=["none"], choices=MODES)
    options.add_argument("--depth", type=int, default=100, help="candidates kept per query")
    options.add_argument(
        "--device", default="auto", choices=["auto", "cuda", "cpu"], help="where a large pool is searched"
    )
    options.add_argument("--trec", type=Path, help="folder for TREC run files")
    options.add_argument("--output", required=True, type=Path, help="Parquet file to write")
    run(options, retrieve)
