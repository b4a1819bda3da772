"""Queries of several parts: what no other candidate beats in all of them (Cross-modal RAG, arXiv 2505.21956).

A query for a dog, a boat and a lighthouse has a best candidate for each weighing of its parts. All of these are among
the candidates that no other one is at least as good as in every part and better in one: the Pareto set.
"""

import re
from typing import Any

import numpy as np

from gcl.common.arrays import Ints

PARTS = re.compile(r"\s*(?:[,;]|\band\b|\bwith\b)\s*", re.IGNORECASE)


def parts_of(text: str) -> list[str]:
    """Split a text at commas, semicolons, "and" and "with".

    Example:
        >>> parts_of("a dog, a boat and a lighthouse with red stripes")
        ['a dog', 'a boat', 'a lighthouse', 'red stripes']
    """
    return [part for part in PARTS.split(text.strip()) if part]


def pareto_set(scores: Any) -> Ints:
    """Return the rows of (C, P) scores that no other row dominates: the largest sum first, ties to the lower row.

    A row dominates another if it is at least as high in every part and higher in one; equal rows are all kept.
    """
    scores = np.asarray(scores, np.float64)
    order = np.lexsort((np.arange(len(scores)), -scores.sum(1)))
    rest, front = order, []
    while len(rest):
        best = rest[0]  # no row with a smaller sum dominates it
        front.append(best)
        others = rest[1:]
        ahead, same = (scores[others] > scores[best]).any(1), (scores[others] == scores[best]).all(1)
        rest = others[ahead | same]
    return np.array(front, np.int64)
