"""Unit vectors of a benchmark's items, a block at a time, from the outputs for its images and texts."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcl import calibrate
from gcl.calibrate import MODALITIES
from gcl.fusion import Floats, Outputs
from gcl.items import Combinations, Table, modality_of

Ints = NDArray[np.int64]
NOTHING = -1


class Source(NamedTuple):
    """A model's outputs for a prepared benchmark, and how they are fused."""

    outputs: Outputs
    combinations: Combinations  # empty unless fusion is native
    fusion: str


class Distinct(NamedTuple):
    """The U distinct items of some tables in order of first occurrence: equal items share a vector, so they tie."""

    images: Ints  # (U,) row of the image, the first of several; NOTHING for none
    texts: Ints  # (U,) row of the text; NOTHING for none
    fused: Ints  # (U,) row of the combination where fusion is native; NOTHING for none
    several: dict[int, tuple[tuple[int, ...], tuple[float, ...]]]  # items of several images: their rows and weights
    modalities: NDArray[np.int8]  # (U,) into MODALITIES
    rows: Ints  # (n,) distinct item of every item, one table after the other


def distinct_items(tables: Iterable[Table], combinations: Combinations) -> Distinct:
    """Find the distinct items of tables that are searched together."""
    order: dict[tuple[tuple[int, ...], int, tuple[float, ...]], int] = {}
    rows = [
        order.setdefault(key, len(order))
        for table in tables
        for key in zip(table.image_rows, table.text_rows, table.weights, strict=True)
    ]
    images = np.array([key[0][0] if key[0] else NOTHING for key in order], np.int64)
    texts = np.array([key[1] for key in order], np.int64)
    pairs = zip(images.tolist(), texts.tolist(), strict=True)
    fused = [combinations[i, t] if combinations and i >= 0 and t >= 0 else NOTHING for i, t in pairs]
    several = {place: (key[0], key[2]) for key, place in order.items() if len(key[0]) > 1}
    modalities = np.array([MODALITIES.index(modality_of(key[0], key[1])) for key in order], np.int8)
    return Distinct(images, texts, np.array(fused, np.int64), several, modalities, np.array(rows, np.int64))


def pooled(outputs: Floats, weights: tuple[float, ...]) -> Floats:
    """Return one output (D,) for several images (F, D): the weighted mean of their unit vectors, at their mean length.

    The mean of unit vectors is what CoVR's evaluation makes of a video's frames. No weights: equal ones.
    """
    length = np.linalg.norm(outputs, axis=1)
    share = np.asarray(weights or np.full(len(outputs), 1 / len(outputs)), np.float32)
    mean: Floats = (share @ (outputs / length[:, None])) * length.mean()
    return mean.astype(np.float32)


def unit_vectors(items: Distinct, start: int, stop: int, source: Source, mode: str, stats: Any) -> Floats:
    """Return (stop - start, D) unit vectors of distinct items, calibrated by `mode`."""
    outputs, combinations, fusion = source
    found = np.empty((stop - start, outputs.text.shape[1]), np.float32)
    for number, modality in enumerate(MODALITIES):
        chosen = start + np.flatnonzero(items.modalities[start:stop] == number)
        if not len(chosen):
            continue
        if modality == "image_text" and outputs.fused is not None:
            places = {
                int(u): tuple(combinations[image, int(items.texts[u])] for image in items.several[int(u)][0])
                for u in chosen
                if int(u) in items.several
            }
            fused = gathered(outputs.fused, items.fused, chosen, items, places)
            found[chosen - start] = calibrate.vectors(None, None, mode, fusion, stats, fused)
            continue
        images = {int(u): items.several[int(u)][0] for u in chosen if int(u) in items.several}
        image = None if modality == "text" else gathered(outputs.image, items.images, chosen, items, images)
        text = None if modality == "image" else np.asarray(outputs.text[items.texts[chosen]], np.float32)
        found[chosen - start] = calibrate.vectors(image, text, mode, fusion, stats)
    return found


def gathered(outputs: Floats, rows: Ints, chosen: Ints, items: Distinct, several: dict[int, tuple[int, ...]]) -> Floats:
    """Return the outputs of chosen items, those of several images pooled."""
    picked = np.asarray(outputs[rows[chosen]], np.float32)
    for place, item in enumerate(chosen.tolist() if several else []):
        if item in several:
            picked[place] = pooled(outputs[list(several[item])], items.several[item][1])
    return picked


class Vectors(NamedTuple):
    """Unit vectors of the distinct items of a table, and where each item's lies."""

    distinct: Floats  # (U, D)
    rows: Ints  # (n,) into distinct
    modalities: NDArray[np.int8]  # (U,) into MODALITIES


def all_vectors(table: Table, source: Source) -> Vectors:
    """Return the uncalibrated unit vectors of a small table."""
    items = distinct_items([table], source.combinations)
    return Vectors(unit_vectors(items, 0, len(items.images), source, "none", None), items.rows, items.modalities)
