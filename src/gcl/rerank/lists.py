"""The lists that are ranked again: of each query of a run the first k."""

import json
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl.common.arrays import Floats, Ints
from gcl.common.errors import UserError
from gcl.common.rows import made_by
from gcl.data.items import Task
from gcl.data.prepared import PreparedBenchmark
from gcl.data.records import read_parquet
from gcl.infer.store import Outputs, read_outputs
from gcl.rerank.features import Evidence, Items, Means, Words, items_of
from gcl.retrieve.calibration import read_calibration
from gcl.retrieve.item_vectors import DistinctTables
from gcl.retrieve.run_file import Ranking, rankings

FIRST_STAGE = "center_zscore"  # the calibration whose ranking is ranked again
# What the new ranking has in its place: by features of pairs, by reading both, by looking at one as the other asks.
RERANK, JOINT, ADAPTER = "rerank", "joint", "adapter"
READING = (JOINT, ADAPTER)  # what `fit_joint` makes
SECOND_STAGES = (RERANK, *READING)


class Inputs(NamedTuple):
    """Where everything lies that a seed's features are made of: what `add_inputs` asks for."""

    run_file: Path
    prepared: Path
    embeddings: Sequence[Path]
    towers: Sequence[Path]
    shared: Path | None
    calibration: Path

    def of_seed(self, seed: str) -> tuple[Outputs, Path]:
        """Return the outputs and the file of statistics of a seed."""
        return read_outputs(
            [folder / seed for folder in self.embeddings], self.shared
        ), self.calibration / f"{seed}.json"


class RankedLists(NamedTuple):
    """The first k of every query of one ranking."""

    ranking: Ranking
    lengths: list[int]  # of each query, at most k; the rest is of the pairs, n in all, one query after the other
    queries: Items
    candidates: Items
    scores: Floats  # (n,) of the ranking

    @property
    def starts(self) -> Ints:
        """Return the first pair of each query, and the end of all, (queries + 1,)."""
        return np.cumsum([0, *self.lengths])


def evidence_of(inputs: Inputs, seed: str, tower_means: Means, words: Words) -> Evidence:
    """Read what features of a benchmark are made of."""
    outputs, stats = inputs.of_seed(seed)
    towers = read_outputs(inputs.towers, inputs.shared) if inputs.towers else None
    texts = read_parquet(inputs.prepared / "texts.parquet")["text"]
    return Evidence(outputs, read_calibration(stats), towers, tower_means, words, texts)


class Lists:
    """Makes the lists of a benchmark; finds the distinct items of its tables once."""

    def __init__(self, bench: PreparedBenchmark, k: int) -> None:
        """Take a prepared benchmark and how many candidates of a query are ranked again.

        Raises:
            UserError: k below 1.
        """
        if k < 1:
            raise UserError(f"k is {k}, expected 1 or more candidates of a query to rank again")
        self.bench, self.k = bench, k
        self.distinct = DistinctTables(bench.tables).of

    def rankings(self, run: Path) -> Iterator[tuple[Ranking, Task]]:
        """Yield every ranking of a run with its task."""
        tasks = {task.name: task for task in self.bench.tasks}
        for ranking in rankings(run, {name: self.bench.queries(task) for name, task in tasks.items()}):
            yield ranking, tasks[ranking.task]

    def of_run(self, run: Path, seed: int) -> Iterator[RankedLists]:
        """Yield the lists of every ranking of the first stage by a seed.

        Raises:
            UserError: the run has none, or a second stage's besides.
        """
        is_there = False
        for ranking, task in self.rankings(run):
            if ranking.calibration in SECOND_STAGES:
                raise UserError(f"{run} is ranked again already; give the run that `retrieve` wrote")
            if (ranking.seed, ranking.calibration) == (seed, FIRST_STAGE):
                is_there = True
                yield self.lists(ranking, task)
        if not is_there:
            raise UserError(
                f"{run} has no ranking with calibration {FIRST_STAGE} by seed {seed}, which is ranked again"
            )

    def lists(self, ranking: Ranking, task: Task) -> RankedLists:
        """Return the first k of each query."""
        lengths = [min(self.k, len(own)) for own in ranking.candidates]
        query_items, pool = self.distinct((task.queries,)), self.distinct(tuple(task.pools[ranking.pool]))
        of_query = np.repeat(np.arange(len(lengths)), lengths)
        ids = [name for own, n in zip(ranking.candidates, lengths, strict=True) for name in own[:n]]
        places = rows_in(ids, self.bench.pool_ids(task, ranking.pool))
        queries, candidates = items_of(query_items, query_items.rows[of_query]), items_of(pool, pool.rows[places])
        scores = np.concatenate([own[:n] for own, n in zip(ranking.scores, lengths, strict=True)])
        return RankedLists(ranking, lengths, queries, candidates, scores)


def add_inputs(options: ArgumentParser) -> None:
    """Add the arguments of both commands."""
    options.add_argument("--run", dest="run_file", required=True, type=Path, help="what `retrieve` wrote")
    options.add_argument("--prepared", required=True, type=Path, help="the benchmark, prepared")
    options.add_argument("--embeddings", required=True, nargs="+", type=Path, help="the model's outputs, by seed")
    options.add_argument("--towers", nargs="+", type=Path, default=[], help="the frozen towers' outputs, if there are")
    options.add_argument("--shared", type=Path, help="as of `gcl retrieve`")
    options.add_argument("--calibration", required=True, type=Path, help="what `calibrate` wrote")


def gathered(stage: Callable[..., None]) -> Callable[..., None]:
    """Return a stage as the command line calls it: what `add_inputs` asks for is its first argument, as Inputs."""

    def called(**arguments: Any) -> None:
        stage(Inputs(**{name: arguments.pop(name) for name in Inputs._fields}), **arguments)

    return called


def rows_in(ids: list[str], pool: pa.ChunkedArray) -> Ints:
    """Return the row of each id in a pool."""
    rows: Ints = pc.index_in(pa.array(ids, pa.string()), value_set=pool).to_numpy(zero_copy_only=False)
    return rows.astype(np.int64)


def seeds_of(embeddings: Sequence[Path]) -> list[str]:
    """Return the names of the seeds of a model's embeddings.

    Raises:
        UserError: there are none.
    """
    seeds = sorted((p.name for p in embeddings[-1].glob("seed*")), key=lambda name: int(name.removeprefix("seed")))
    if not seeds:
        raise UserError(f"{embeddings[-1]} holds no folders of seeds; run `infer`")
    return seeds


def read_words(path: Path) -> Words:
    """Read the words of a re-ranker."""
    with made_by("fit_reranker", path):
        value = json.loads(path.read_text(encoding="utf-8"))
        return Words(value["texts"], value["counts"])
