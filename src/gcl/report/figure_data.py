"""What the report shows of a recipe's embeddings and rankings, from its first seed without calibration."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from gcl.common.arrays import MODALITIES, Floats
from gcl.config.paths import Place
from gcl.data.prepared import PreparedBenchmark
from gcl.retrieve.item_vectors import Vectors, all_vectors
from gcl.retrieve.retrieve import read_source
from gcl.retrieve.run_file import Ranking, rankings

CANDIDATES = 20_000  # of a table, whose modality gap is measured


class View(NamedTuple):
    """What the embedding figures need of one recipe: its first seed on one benchmark."""

    recipe: str
    units: dict[str, Floats]  # modality -> (n, D) unit vectors of the candidates
    positives: dict[str, Floats]  # task -> cosines of queries with relevant candidates
    others: dict[str, Floats]  # task -> cosines with all other candidates of that modality
    first_hits: dict[str, np.ndarray]  # task -> (Q,) rank of the first hit in the global pool, 0 for none
    shares: dict[str, dict[str, float]]  # query modality -> candidate modality -> share of the top 10, global


def gap(units: dict[str, Floats]) -> float:
    """Distance between the centroids of image and text candidates: the modality gap, 0..2; NaN without either."""
    if not {"image", "text"} <= units.keys():
        return float("nan")
    return float(np.linalg.norm(units["image"].mean(0) - units["text"].mean(0)))


def first_rankings(run: Path, bench: PreparedBenchmark) -> dict[str, Ranking]:
    """Return the global ranking of each task by the run's first seed, uncalibrated."""
    queries = {task.name: bench.queries(task) for task in bench.tasks}
    rankings_by_task: dict[str, Ranking] = {}
    for ranking in rankings(run, queries):
        if ranking.pool == "global" and ranking.calibration == "none":
            rankings_by_task.setdefault(ranking.task, ranking)
        if len(rankings_by_task) == len(bench.tasks):
            break  # a run has them first if `none` is the first calibration
    return rankings_by_task


def first_hits(ranking: Ranking, bench: PreparedBenchmark) -> np.ndarray:
    """Return (Q,) ranks of the first relevant candidate, 0 where there is none."""
    task = next(t for t in bench.tasks if t.name == ranking.task)
    relevant = [bench.qrels[ranking.task].get(q, {}) for q in bench.queries(task)]
    return np.array(
        [
            next((rank for rank, c in enumerate(row, 1) if c in good), 0)
            for row, good in zip(ranking.candidates, relevant, strict=True)
        ]
    )


def task_cosines(query: Vectors, pool: Vectors, is_relevant: np.ndarray) -> tuple[Floats, Floats]:
    """Return the cosines of relevant pairs and of all others."""
    scores = query.distinct[query.rows] @ pool.distinct[pool.rows].T  # (Q, C)
    return scores[is_relevant], scores[~is_relevant]


def relevance(bench: PreparedBenchmark, task_name: str, queries: list[str], candidates: list[str]) -> np.ndarray:
    """Return (Q, C) bool."""
    column = {c: i for i, c in enumerate(candidates)}
    is_relevant = np.zeros((len(queries), len(candidates)), bool)
    for i, query in enumerate(queries):
        for candidate in bench.qrels[task_name].get(query, {}):
            if candidate in column:
                is_relevant[i, column[candidate]] = True
    return is_relevant


def shares(top: dict[str, Ranking], bench: PreparedBenchmark) -> dict[str, dict[str, float]]:
    """Return the share of each candidate modality in the top 10 by query modality."""
    modality_of = {i: m for name, m in pool_modalities(bench).items() for i in bench.tables[name].ids.to_pylist()}
    counts = {q: dict.fromkeys(MODALITIES, 0) for q in MODALITIES}
    for task in bench.tasks:
        for row in top[task.name].candidates:
            for candidate in row[:10]:
                counts[task.query_modality][modality_of[candidate]] += 1
    return {q: {c: n / max(1, sum(by.values())) for c, n in by.items()} for q, by in counts.items()}


def pool_modalities(bench: PreparedBenchmark) -> dict[str, str]:
    """Return the modality of each pool table, as the local pools of the tasks say."""
    return {name: task.candidate_modality for task in bench.tasks for name in task.pools["local"]}


def item_units(place: Place, fusion: str, bench: PreparedBenchmark) -> dict[str, Vectors]:
    """Return the unit vectors of every table by the first seed."""
    seed = sorted(place.embeddings[-1].glob("seed*"))[0].name
    source = read_source(place.prepared, [folder / seed for folder in place.embeddings], place.shared, fusion)
    return {name: all_vectors(table, source) for name, table in bench.tables.items()}


def by_modality(vectors: dict[str, Vectors], bench: PreparedBenchmark) -> dict[str, Floats]:
    """Return the distinct candidates of each modality, (n, D)."""
    pools = {name: None for task in bench.tasks for names in task.pools.values() for name in names}
    units: dict[str, list[Floats]] = {m: [] for m in MODALITIES}
    for name in pools:
        for number, modality in enumerate(MODALITIES):
            units[modality].append(vectors[name].distinct[vectors[name].modalities == number])
    joined = {modality: np.concatenate(parts) for modality, parts in units.items()}
    return {modality: parts for modality, parts in joined.items() if len(parts)}


def units_of(place: Place, fusion: str, bench: PreparedBenchmark) -> dict[str, Floats]:
    """Return the unit vectors of the candidates by modality, of at most CANDIDATES of each table."""
    few = {name: table.first(CANDIDATES) for name, table in bench.tables.items()}
    return by_modality(item_units(place, fusion, bench._replace(tables=few)), bench)


def view_recipe(recipe: str, run: Path, place: Place, fusion: str, bench: PreparedBenchmark) -> View:
    """Collect everything the figures show of one recipe."""
    vectors = item_units(place, fusion, bench)
    positives, others = {}, {}
    for task in bench.tasks:
        (pool,) = task.pools["local"]
        is_relevant = relevance(bench, task.name, bench.queries(task), bench.tables[pool].ids.to_pylist())
        positives[task.name], others[task.name] = task_cosines(vectors[task.queries], vectors[pool], is_relevant)
    top = first_rankings(run, bench)
    hits = {name: first_hits(ranking, bench) for name, ranking in top.items()}
    return View(recipe, by_modality(vectors, bench), positives, others, hits, shares(top, bench))
