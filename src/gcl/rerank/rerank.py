"""Rank the first candidates of every query again, by features of each pair or by reading both together.

In:  a run with its ranking by center_zscore, the benchmark as prepared, the model's and the frozen towers' outputs for
     it, the model's statistics, and what `gcl fit_reranker` or `gcl fit_joint` made on another benchmark.
Out: the run with one more ranking for each re-ranker, seed, task and pool, whose calibration is called `rerank`,
     `joint` or `adapter`. The candidates beyond the first k keep their places.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcl.common.arrays import Floats
from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.common.rows import made_by
from gcl.data.prepared import PreparedBenchmark, read_benchmark
from gcl.infer.encoder import run_batches
from gcl.infer.session import open_session
from gcl.rerank.features import NAMES, pair_features
from gcl.rerank.joint import JointReranker
from gcl.rerank.lists import (
    READING,
    Inputs,
    Lists,
    RankedLists,
    add_inputs,
    evidence_of,
    gathered,
    read_words,
    rows_in,
    seeds_of,
)
from gcl.retrieve.run_file import STORED, run_table
from gcl.retrieve.task_ranker import Ranked


def again(lists: RankedLists, scores: Floats) -> tuple[list[list[str]], list[Floats]]:
    """Return the candidates and scores of every query, the first k in the order of the new scores, ties in the old.

    What is beyond k comes after, with scores that fall in equal steps.
    """
    candidates, reranked, start = [], [], 0
    for own, n in zip(lists.ranking.candidates, lists.lengths, strict=True):
        new = scores[start : start + n]
        order = np.argsort(-new, kind="stable")
        rest = new.min(initial=0) - 1 - np.arange(len(own) - n, dtype=np.float32)
        candidates.append([own[i] for i in order] + own[n:])
        reranked.append(np.concatenate([new[order], rest]).astype(np.float32))
        start += n
    return candidates, reranked


def table_of(lists: RankedLists, scores: Floats, kind: str, bench: PreparedBenchmark) -> pa.Table:
    """Return the new ranking as rows of the run."""
    ranking = lists.ranking
    (task,) = (task for task in bench.tasks if task.name == ranking.task)
    candidates, reranked = again(lists, scores)
    rows = rows_in([name for own in candidates for name in own], bench.pool_ids(task, ranking.pool))
    ends = np.cumsum([len(own) for own in candidates])[:-1]
    return run_table(task, ranking.pool, kind, ranking.seed, Ranked(reranked, np.split(rows, ends)), bench)


class Reranker(NamedTuple):
    """What `fit_reranker` or `fit_joint` made for a seed."""

    kind: str  # what the new ranking is called
    k: int
    scores: Callable[[RankedLists], Floats]


def open_reranker(folder: Path, inputs: Inputs, tokens: Path | None) -> Reranker:
    """Open a re-ranker of a seed, the name of its folder.

    Raises:
        UserError: it is missing, broken, or takes other features than this version makes.
    """
    with made_by("fit_reranker", folder):
        about = json.loads((folder / "reranker.json").read_text(encoding="utf-8"))
        kind, k = str(about["kind"]), int(about["k"])
    if kind in READING:
        weight, share = float(about["weight"]), float(about["share"])
        if not share:  # nothing that it reads helped
            return Reranker(kind, k, lambda lists: np.float32(weight) * lists.scores)
        if tokens is None:
            raise UserError(f"{folder} reads image tokens; give --tokens, the exported towers that it was fitted with")
        return Reranker(kind, k, JointReranker(folder, weight, share, inputs.prepared, tokens).scores)
    if about["features"] != list(NAMES):
        raise UserError(
            f"{folder} takes the features {', '.join(about['features'])}, expected {', '.join(NAMES)}; fit it again"
        )
    with made_by("fit_reranker", folder), np.load(folder / "tower_means.npz") as file:
        means = dict(file)
    session = open_session(folder / "reranker.onnx", "cpu", 1)
    evidence = evidence_of(inputs, folder.name, means, read_words(folder / "words.json"))

    def scores(lists: RankedLists) -> Floats:
        return run_batches(session, pair_features(lists.queries, lists.candidates, lists.scores, evidence))[:, 0]

    return Reranker(kind, k, scores)


def rerank(inputs: Inputs, reranker: Sequence[Path], output: Path, tokens: Path | None = None) -> None:
    """Rank again, for every seed and by each re-ranker.

    Raises:
        UserError: a run of other queries, broken or without the first stage's ranking, or a re-ranker that doesn't fit.
    """
    bench = read_benchmark(inputs.prepared)
    with made_by("retrieve", inputs.run_file):
        run_of = pq.ParquetFile(inputs.run_file)
    with atomic_path(output) as temporary, pq.ParquetWriter(temporary, run_of.schema_arrow, **STORED) as writer:
        for group in range(run_of.num_row_groups):
            writer.write_table(run_of.read_row_group(group))
        for folder in (path / name for name in seeds_of(inputs.embeddings) for path in reranker):
            own = open_reranker(folder, inputs, tokens)
            for lists in Lists(bench, own.k).of_run(inputs.run_file, int(folder.name.removeprefix("seed"))):
                table = table_of(lists, own.scores(lists), own.kind, bench)
                writer.write_table(table.cast(run_of.schema_arrow), row_group_size=max(1, len(table)))


def main() -> None:
    """Run from the command line."""
    options = parser(
        "rerank",
        __doc__,
        "--run runs/clipart9.parquet --prepared prepared/clipart9 --embeddings vectors --towers towers"
        " --calibration calibrations --reranker reranker --output reranked.parquet",
    )
    add_inputs(options)
    options.add_argument(
        "--reranker", required=True, nargs="+", type=Path, help="what `fit_reranker` or `fit_joint` wrote, one or both"
    )
    options.add_argument("--tokens", type=Path, help="for `fit_joint`'s: the exported towers that give image tokens")
    options.add_argument("--output", required=True, type=Path, help="Parquet file to write")
    run(options, gathered(rerank))
