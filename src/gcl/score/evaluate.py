"""Measures of a run in memory: what the stage `score` does with files."""

from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np

from gcl.common.errors import UserError
from gcl.retrieve.run_file import Ranking
from gcl.score.score import check_measure, library_name, per_query


def evaluate(
    run: Mapping[str, Sequence[str] | Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = ("Success@1", "Success@5", "Success@10"),
) -> dict[str, float]:
    """Return the mean of each measure over all queries of the run and of the qrels.

    A query without relevant candidates, and one that the run lacks, counts as a miss.

    Args:
        run: query -> candidates, best first; or query -> candidate -> score, where of equal scores the first counts.
        qrels: query -> candidate -> relevance, above 0 where relevant.
        measures: names of ir_measures with a cut-off, Success@k (M-BEIR's Recall@k), R@k, nDCG@k, AP@k; or APmin@k
            (CIRCO's mAP@k).

    Returns:
        Measure -> mean, 0..1.

    Raises:
        UserError: an unknown measure, one without a cut-off, no query at all, or a candidate that is ranked twice.

    Source: ir_measures; APmin@k: arXiv 2303.15247.

    Example:
        >>> import gcl
        >>> run = {"q1": ["a", "b"], "q2": {"b": 0.3, "a": 0.9}}
        >>> gcl.evaluate(run, {"q1": {"b": 1}, "q2": {"a": 1}}, ["Success@1", "Success@2"])
        {'Success@1': 0.5, 'Success@2': 1.0}
    """
    for measure in measures:
        check_measure(measure)
    queries = list(dict.fromkeys([*run, *qrels]))
    if not queries:
        raise UserError("there is no query: run and qrels are empty")
    ranked = [best_first(query, run.get(query, ())) for query in queries]
    relevant = {query: dict(judged) for query, judged in qrels.items()}
    ranking = Ranking(0, "", "", "none", ranked, [])
    parsed = {ir_measures.parse_measure(library_name(measure)) for measure in measures}
    evaluator = ir_measures.evaluator(sorted(parsed, key=str), relevant)
    values = per_query(ranking, evaluator, queries, list(measures), relevant)
    return {measure: float(values[:, i].mean(dtype=np.float64)) for i, measure in enumerate(measures)}


def best_first(query: str, ranking: Sequence[str] | Mapping[str, float]) -> list[str]:
    """Return a query's candidates in order."""
    order = sorted(ranking, key=lambda c: -ranking[c]) if isinstance(ranking, Mapping) else list(ranking)
    if len(set(order)) < len(order):
        raise UserError(f"query '{query}' ranks a candidate twice: {max(order, key=order.count)}")
    return order
