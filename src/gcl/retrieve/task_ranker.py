"""Rankings of the pools of a benchmark by one model, for every query."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gcl.common.arrays import MODALITIES, Floats, Ints
from gcl.common.errors import UserError
from gcl.data.items import Task
from gcl.data.prepared import PreparedBenchmark
from gcl.retrieve import biases, calibration
from gcl.retrieve.exact import Pool, Query, expanded, members_of, rank_list
from gcl.retrieve.item_vectors import Distinct, DistinctTables, ModelOutputs, unit_vectors
from gcl.retrieve.scan.pieces import Pieces
from gcl.retrieve.search import best_rows

QUERIES = 1024  # that are scored at a time
KEPT = 16384  # items of a table up to which their vectors are kept for the next task


class Ranked(NamedTuple):
    """One pool ranked for every query of a task."""

    scores: list[Floats]  # per query, highest first
    rows: list[Ints]  # per query, rows of the pool


class Ranker:
    """Ranks pools; finds the distinct items of tables once, and reads a pool once for all tasks that search it.

    A large pool is read once for all of `modes` that compare the same vectors, too: none and zscore, center and
    center_zscore.
    """

    def __init__(
        self,
        bench: PreparedBenchmark,
        source: ModelOutputs,
        stats: Any,
        device: str,
        bank: biases.Bank | None = None,
        modes: Sequence[str] = (),
        pieces: Pieces | None = None,
    ) -> None:
        self.bench, self.source, self.stats, self.device, self.bank = bench, source, stats, device, bank
        self.modes, self.pieces = modes, pieces
        self.distinct = DistinctTables(bench.tables).of
        self.kept: dict[tuple[str, ...], Floats] = {}
        self.kept_mode = ""
        # Results of a search that other tasks will ask for too: (tables, mode) -> table of queries -> scores and items.
        self.found: dict[tuple[tuple[str, ...], str], dict[str, tuple[Floats, Ints]]] = {}

    def table(self, names: tuple[str, ...], mode: str) -> Pool:
        """Return the distinct items of tables; a small table's vectors are kept."""
        items = self.distinct(names)
        if (shared := calibration.vectors_of(mode)) != self.kept_mode:
            self.kept, self.kept_mode = {}, shared
        if names not in self.kept and len(items.images) <= KEPT:
            self.kept[names] = self.vectors(items, slice(None), mode)
        if names in self.kept:
            return Pool(len(items.images), self.kept[names].__getitem__, items.modalities)
        return Pool(len(items.images), lambda rows: self.vectors(items, rows, mode), items.modalities)

    def pool(self, names: tuple[str, ...], mode: str) -> Pool:
        """Return the distinct items of tables, to be searched."""
        plain = self.table(names, mode)
        if mode not in biases.BIASES:
            return plain
        if self.source.late > 1:
            raise UserError(f"calibration '{mode}' is of products; this model has {self.source.late} vectors an item")
        if self.bank is None:
            raise UserError(f"calibration '{mode}' compares with training queries, and the model has none")
        bank, weights = self.bank, biases.equal_weights(self.bank)
        if mode == "sinkhorn":
            starts = range(0, plain.size, KEPT)
            weights = biases.sinkhorn_weights(
                bank, plain.size, lambda: (plain.vectors(slice(s, s + KEPT)) for s in starts)
            )

        def biased(rows: slice | Ints) -> Floats:
            vectors = plain.vectors(rows)
            return biases.with_biases(vectors, biases.biases(mode, vectors, bank, weights))

        if plain.size > KEPT:
            return plain._replace(vectors=biased)
        return plain._replace(vectors=biased(slice(None)).__getitem__)

    def vectors(self, items: Distinct, rows: slice | Ints, mode: str) -> Floats:
        """Return unit vectors of some distinct items."""
        return unit_vectors(items, rows, self.source, mode, self.stats)

    def queries(self, names: tuple[str, ...], modes: list[str]) -> dict[str, list[Query]]:
        """Return distinct queries in parts, with what makes scores of their cosines, by mode.

        The modes compare the same vectors, which are the same arrays.
        """
        items = self.table(names, modes[0])
        parts = [slice(start, min(start + QUERIES, items.size)) for start in range(0, items.size, QUERIES)]
        vectors = [items.vectors(part) for part in parts]
        if modes[0] in biases.BIASES:
            vectors = [biases.as_queries(v, items.modalities[part]) for v, part in zip(vectors, parts, strict=True)]
        queries_by_mode: dict[str, list[Query]] = {}
        for mode in modes:
            maps = [calibration.affine(mode, query, MODALITIES, self.stats) for query in MODALITIES]
            factors, offsets = (np.stack([m[i] for m in maps])[items.modalities] for i in range(2))
            each = [(v, factors[part], offsets[part]) for v, part in zip(vectors, parts, strict=True)]
            queries_by_mode[mode] = [Query(*one, self.source.late) for one in each]
        return queries_by_mode

    def rank(self, task: Task, pool: str, mode: str, k: int) -> Ranked:
        """Rank a pool: the whole of it, or each query's own list."""
        tables = tuple(task.pools[pool])
        items, items_of = self.distinct(tables), self.distinct((task.queries,)).rows
        if pool in task.listed:
            return self.rank_lists(task, pool, self.queries((task.queries,), [mode])[mode], items_of, mode, k)
        users = self.users(tables)
        if (tables, mode) not in self.found:
            self.found |= self.search(users, tables, self.together(mode, len(items.images)), k)
        best, groups = self.found[tables, mode][task.queries]
        if (task, pool) == users[-1]:  # the last that asks
            del self.found[tables, mode]
        k_all = k + self.excluded_most(task)
        scores, rows = expanded(best[items_of], groups[items_of], members_of(items.rows, len(items.images)), k_all)
        return without(Ranked(scores, rows), self.excluded_rows(task, pool), k)

    def users(self, tables: tuple[str, ...]) -> list[tuple[Task, str]]:
        """Return the tasks that search all of some tables, and what they call them."""
        return [
            (task, pool)
            for task in self.bench.tasks
            for pool, names in task.pools.items()
            if tuple(names) == tables and pool not in task.listed
        ]

    def together(self, mode: str, size: int) -> list[str]:
        """Return the modes for which a pool is read at the same time; the vectors of a small one are kept instead."""
        own = calibration.vectors_of(mode)
        return [mode, *(m for m in self.modes if size > KEPT and m != mode and calibration.vectors_of(m) == own)]

    def search(
        self, users: list[tuple[Task, str]], tables: tuple[str, ...], modes: list[str], k: int
    ) -> dict[tuple[tuple[str, ...], str], dict[str, tuple[Floats, Ints]]]:
        """Read a pool once for all tasks and modes: return the best items by mode and table of distinct queries."""
        names = list(dict.fromkeys(task.queries for task, _ in users))
        parts = []  # those of the same vectors are neighbours
        for name in names:
            for same in zip(*self.queries((name,), modes).values(), strict=True):
                parts += [(mode, name, query) for mode, query in zip(modes, same, strict=True)]
        k_all = k + max(self.excluded_most(task) for task, _ in users)
        pool, queries = self.pool(tables, modes[0]), [query for *_, query in parts]
        find = best_rows if self.pieces is None else partial(self.pieces.search, best_rows)
        best, rows = find(queries, pool, k_all, self.device)
        ends = np.cumsum([len(query.vectors) for query in queries])[:-1]
        results: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        for (mode, name, _), *result in zip(parts, np.split(best, ends), np.split(rows, ends), strict=True):
            results.setdefault((mode, name), []).append(tuple(result))
        return {(tables, mode): {name: joined(results[mode, name]) for name in names} for mode in modes}

    def excluded_most(self, task: Task) -> int:
        """Return how many candidates a query has that are not ranked for it, at most."""
        return max(map(len, self.bench.excluded[task.name].values()), default=0)

    def excluded_rows(self, task: Task, pool: str) -> list[set[int]]:
        """Return per query the rows of a pool that are not ranked for it."""
        out = self.bench.excluded[task.name]
        if not out:
            return []
        ids = pa.array(sorted(set().union(*out.values())), pa.string())
        rows = pc.index_in(ids, value_set=self.bench.pool_ids(task, pool)).to_pylist()
        row_of = {item_id: row for item_id, row in zip(ids.to_pylist(), rows, strict=True) if row is not None}
        return [{row_of[c] for c in out.get(query, ()) if c in row_of} for query in self.bench.queries(task)]

    def rank_lists(self, task: Task, pool: str, queries: list[Query], items_of: Ints, mode: str, k: int) -> Ranked:
        """Rank each query's own list."""
        items = self.distinct(tuple(task.pools[pool]))
        lists = self.bench.lists[task.name, pool]
        ids = self.bench.queries(task)
        own = [np.unique(items.rows[lists[query]], return_inverse=True) for query in ids]
        used, compact = np.unique(np.concatenate([u for u, _ in own]), return_inverse=True)
        vectors, modalities = self.pool(tuple(task.pools[pool]), mode).vectors(used), items.modalities[used]
        ranked = Ranked([], [])
        at = 0
        for number, (query, (distinct, places)) in enumerate(zip(ids, own, strict=True)):
            chosen = compact[at : at + len(distinct)]
            at += len(distinct)
            part, row = divmod(int(items_of[number]), QUERIES)
            one = queries[part].row(row)
            scores, columns = rank_list(one, vectors[chosen], modalities[chosen], places, k)
            ranked.scores.append(scores)
            ranked.rows.append(lists[query][columns].astype(np.int64))
        return ranked


def joined(parts: list[tuple[Any, ...]]) -> tuple[Floats, Ints]:
    """Join scores and rows of consecutive queries."""
    scores, rows = zip(*parts, strict=True)
    return np.concatenate(scores), np.concatenate(rows)


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
