"""Features of a pair of query and candidate: its score, cosines of parts of both, and words in common.

score                      of the first stage
image image, image text,   cosines of the model's outputs for the query's part and the candidate's, centered by
text image, text text      the training mean of the modality; 0 where either lacks the part
tower image, tower text    the same of the frozen towers' outputs, which tell more within a modality
words                      share of the query's words that the candidate's text has, rare words weighing more
query is, candidate is     which modality, one number for each
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gcl.common.arrays import MODALITIES, Floats, Ints, unit
from gcl.infer.store import Outputs, rows_of
from gcl.retrieve.calibration import Calibration, centered
from gcl.retrieve.item_vectors import NOTHING, Distinct

NAMES = (
    "score", "image image", "image text", "text image", "text text", "tower image", "tower text", "words",
    *(f"query is {m}" for m in MODALITIES), *(f"candidate is {m}" for m in MODALITIES),
)  # fmt: skip
WORD = re.compile(r"\w+")
Means = Mapping[str, Floats]  # modality -> (F,)


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text in lower case."""
    return frozenset(WORD.findall(text.lower()))


class Words(NamedTuple):
    """How rare words are in the training texts."""

    texts: int
    counts: Mapping[str, int]  # word -> texts that have it

    def weight(self, word: str) -> float:
        """Return the inverse document frequency, as if one more text had the word."""
        return math.log((self.texts + 1) / (self.counts.get(word, 0) + 1))

    def shared(self, query: frozenset[str], candidate: frozenset[str]) -> float:
        """Return the weight of the query's words that the candidate has, of all that the query has."""
        total = sum(map(self.weight, query))
        return sum(map(self.weight, query & candidate)) / total if total > 0 else 0.0


def count_words(texts: Iterable[str]) -> Words:
    """Count in how many texts each word is; words of one text weigh as unknown ones nearly do, and are left out."""
    listed = list(texts)
    counts = Counter(word for text in listed for word in words_of(text))
    return Words(len(listed), {word: n for word, n in counts.items() if n > 1})


class Items(NamedTuple):
    """Rows of the image and the text of some items, NOTHING for none."""

    images: Ints  # (n,)
    texts: Ints
    modalities: Ints


def items_of(distinct: Distinct, rows: Ints) -> Items:
    """Return the image (the first of several) and the text of some distinct items."""
    return Items(distinct.images[rows], distinct.texts[rows], distinct.modalities[rows].astype(np.int64))


class Evidence(NamedTuple):
    """What features are made of: outputs for a benchmark's images and texts, their means, and its texts."""

    outputs: Outputs
    stats: Calibration
    towers: Outputs | None
    tower_means: Means
    words: Words
    texts: pa.ChunkedArray  # of the benchmark, row by row


def cosines(one: Floats, other: Floats) -> Floats:
    """Return (n,) cosines of (n, D) unit vectors, row by row."""
    products: Floats = np.einsum("nd,nd->n", one, other)
    return products


def between(queries: Ints, candidates: Ints, query_side: "Side", candidate_side: "Side") -> Floats:
    """Return (n,) cosines of two parts, 0 where either is NOTHING."""
    similarities = np.zeros(len(queries), np.float32)
    rows = np.flatnonzero((queries != NOTHING) & (candidates != NOTHING))
    if len(rows):
        similarities[rows] = cosines(query_side.vectors(queries[rows]), candidate_side.vectors(candidates[rows]))
    return similarities


class Side(NamedTuple):
    """Outputs of a modality with what is taken off."""

    outputs: object
    mean: Any  # (F,)
    is_tower: bool

    def vectors(self, rows: Ints) -> Floats:
        """Return centered unit vectors, (rows, D); each distinct row is read once."""
        distinct, places = np.unique(rows, return_inverse=True)
        outputs = rows_of(self.outputs, distinct)
        return (unit(outputs - self.mean) if self.is_tower else centered(outputs, self.mean))[places]


def pair_features(queries: Items, candidates: Items, scores: Floats, evidence: Evidence) -> Floats:
    """Return (n, len(NAMES)) features of n pairs.

    Args:
        queries: of each pair.
        candidates: of each pair.
        scores: (n,) of the first stage.
        evidence: of the benchmark that both are of.
    """
    image = Side(evidence.outputs.image, evidence.stats.image_mean, False)
    text = Side(evidence.outputs.text, evidence.stats.text_mean, False)
    columns = [
        scores,
        between(queries.images, candidates.images, image, image),
        between(queries.images, candidates.texts, image, text),
        between(queries.texts, candidates.images, text, image),
        between(queries.texts, candidates.texts, text, text),
    ]
    for name in ("image", "text"):
        if evidence.towers is None:
            columns.append(np.zeros(len(scores), np.float32))
            continue
        side = Side(getattr(evidence.towers, name), evidence.tower_means[name], True)
        parts = (queries.images, candidates.images) if name == "image" else (queries.texts, candidates.texts)
        columns.append(between(*parts, side, side))
    columns.append(words_in_common(queries.texts, candidates.texts, evidence))
    for modalities in (queries.modalities, candidates.modalities):
        columns += [(modalities == number).astype(np.float32) for number in range(len(MODALITIES))]
    return np.stack(columns, 1).astype(np.float32)


def words_in_common(queries: Ints, candidates: Ints, evidence: Evidence) -> Floats:
    """Return (n,) shares of words, 0 where either has no text."""
    rows = np.flatnonzero((queries != NOTHING) & (candidates != NOTHING))
    used, places = np.unique(np.stack([queries[rows], candidates[rows]]), return_inverse=True)
    sets = [words_of(text) for text in evidence.texts.take(pa.array(used, pa.int64())).to_pylist()]
    shares = np.zeros(len(queries), np.float32)
    for row, (query, candidate) in zip(rows, places.reshape(2, -1).T, strict=True):
        shares[row] = evidence.words.shared(sets[query], sets[candidate])
    return shares
