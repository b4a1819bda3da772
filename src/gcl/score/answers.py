"""Relevance by content: a candidate counts if its text holds one of a query's answers (M2KR's pseudo-recall).

Only what a run ranks is looked at, so that a pool of a hundred thousand passages needs no qrels.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl.data.items import Task
from gcl.data.prepared import PreparedBenchmark
from gcl.data.records import read_parquet
from gcl.retrieve.run_file import Ranking


class Answers:
    """The answers of a benchmark's queries, and the texts that are searched for them."""

    def __init__(self, bench: PreparedBenchmark, prepared: Path) -> None:
        """Take a prepared benchmark and its folder."""
        self.bench = bench
        self.texts = read_parquet(prepared / "texts.parquet", ["text"])["text"] if bench.answers else None

    def relevant(self, ranking: Ranking, task: Task, depth: int) -> dict[str, dict[str, int]]:
        """Return query -> candidate -> 1 of the first `depth` candidates whose text holds an answer.

        Case and spaces around an answer don't count; a candidate without text holds none (PreFLMR, arXiv 2402.08327).
        """
        wanted = self.bench.answers[task.name]
        ids = self.bench.pool_ids(task, ranking.pool)
        rows = np.concatenate([self.bench.tables[name].text_rows for name in task.pools[ranking.pool]])
        firsts = [own[:depth] for own in ranking.candidates]
        shown = sorted({candidate for own in firsts for candidate in own})
        places = pc.index_in(pa.array(shown, pa.string()), value_set=ids).to_numpy(zero_copy_only=False)
        known = rows[places.astype(np.int64)]
        with_text = dict(zip(np.array(shown, object)[known >= 0].tolist(), known[known >= 0].tolist(), strict=True))
        assert self.texts is not None  # noqa: S101
        read = self.texts.take(pa.array(list(with_text.values()), pa.int64())).to_pylist()
        text_of = {candidate: text.lower() for candidate, text in zip(with_text, read, strict=True)}
        relevant_by_query = {}
        for query, own in zip(self.bench.queries(task), firsts, strict=True):
            answers = [answer.strip().lower() for answer in wanted.get(query, [])]
            relevant_by_query[query] = {c: 1 for c in own if any(answer in text_of.get(c, "") for answer in answers)}
        return relevant_by_query
