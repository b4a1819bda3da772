"""Unit vectors of a benchmark's items, a block at a time, from the outputs for its images and texts."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcl.common.arrays import MODALITIES, Floats, Ints, norms
from gcl.data.in_turns import InTurns
from gcl.data.prepared import Table
from gcl.data.records import split_codes, to_codes
from gcl.infer.store import Outputs, Stacked, rows_of
from gcl.retrieve import calibration

NOTHING = -1
PIECE = 2048  # items at a time: what is made on the way is then in memory that is used again, most of it in a cache
Key = tuple[tuple[int, ...], int, tuple[float, ...], tuple[int, ...]]  # rows of images, of the text, weights, places
Several = dict[int, Key]


class ModelOutputs(NamedTuple):
    """A model's outputs for a prepared benchmark, and how they are fused."""

    outputs: Outputs
    keys: Ints  # (K,) sorted codes of the (image row, text row) that outputs.fused has; empty unless fusion is native
    fusion: str
    late: int = 1  # vectors of an item
    in_turns: Mapping[InTurns, int] = MappingProxyType({})  # item -> its row of outputs.in_turns


class Distinct(NamedTuple):
    """The U distinct items of some tables in order of first occurrence: equal items share a vector, so they tie."""

    images: Ints  # (U,) row of the image, the first of several; NOTHING for none
    texts: Ints  # (U,) row of the text; NOTHING for none
    several: Several  # items of several images, or of one that does not come first
    modalities: NDArray[np.int8]  # (U,) into MODALITIES
    rows: Ints  # (n,) distinct item of every item, one table after the other


def distinct_items(tables: Iterable[Table]) -> Distinct:
    """Find the distinct items of tables that are searched together."""
    several: dict[Key, int] = {}
    items, numbers = numbered(np.concatenate([item_codes(table, several) for table in tables]))
    known = list(several)
    images, texts = split_codes(items).T
    places = np.flatnonzero(items < 0)
    keys = [known[-1 - code] for code in items[places].tolist()]
    images[places], texts[places] = [key[0][0] for key in keys], [key[1] for key in keys]
    modalities = np.where(texts == NOTHING, 0, np.where(images == NOTHING, 1, 2)).astype(np.int8)
    of_several = dict(zip(places.tolist(), keys, strict=True))
    return Distinct(images, texts, of_several, modalities, numbers)


class DistinctTables:
    """Finds the distinct items of tables that are searched together, once."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        """Take a benchmark's tables by name."""
        self.tables = tables
        self.known: dict[tuple[str, ...], Distinct] = {}

    def of(self, names: tuple[str, ...]) -> Distinct:
        """Return the distinct items of some tables."""
        if names not in self.known:
            self.known[names] = distinct_items([self.tables[name] for name in names])
        return self.known[names]


def numbered(codes: Ints) -> tuple[Ints, Ints]:
    """Return the distinct codes in order of first occurrence, and the number of each code among them."""
    if (codes[1:] > codes[:-1]).all():  # a pool without repeats
        return codes, np.arange(len(codes))
    order = np.argsort(codes, kind="stable")
    is_first = np.concatenate([[True], codes[order[1:]] != codes[order[:-1]]])
    firsts = order[is_first]
    number = np.empty(len(firsts), np.int64)
    number[np.argsort(firsts)] = np.arange(len(firsts))
    numbers = np.empty(len(codes), np.int64)
    numbers[order] = number[np.cumsum(is_first) - 1]
    return codes[np.sort(firsts)], numbers


def item_codes(table: Table, several: dict[Key, int]) -> Ints:
    """Return a number for each item, equal for equal items; of several images or in turns: negative, and listed."""
    codes = to_codes(np.int64(NOTHING), table.text_rows)
    lengths = table.image_rows.value_lengths().to_numpy()
    items = np.flatnonzero(lengths)  # those with images
    lengths = lengths[items]
    flat = table.image_rows.flatten().to_numpy()
    starts = np.cumsum(lengths) - lengths
    codes[items] = to_codes(flat[starts], table.text_rows[items])
    in_turns = table.places.value_lengths().to_numpy()[items] > 0
    for place in np.flatnonzero((lengths > 1) | in_turns).tolist():
        item, rows = int(items[place]), tuple(flat[starts[place] : starts[place] + lengths[place]].tolist())
        lists = (tuple(column[item].as_py()) for column in (table.weights, table.places))
        key: Key = (rows, int(table.text_rows[item]), *lists)  # type: ignore[assignment]
        codes[item] = -1 - several.setdefault(key, len(several))
    return codes


def pooled(outputs: Floats, weights: tuple[float, ...]) -> Floats:
    """Return one output (D,) for several images (F, D): the weighted mean of their unit vectors, at their mean length.

    The mean of unit vectors is what CoVR's evaluation makes of a video's frames. No weights: equal ones.
    """
    length = norms(outputs)[:, 0]
    share = np.asarray(weights or np.full(len(outputs), 1 / len(outputs)), np.float32)
    mean: Floats = (share @ (outputs / length[:, None])) * length.mean()
    return mean.astype(np.float32)


def unit_vectors(items: Distinct, rows: slice | Ints, source: ModelOutputs, mode: str, stats: Any) -> Floats:
    """Return (rows, D) unit vectors of some of the distinct items, calibrated by `mode`."""
    rows = np.arange(*rows.indices(len(items.images))) if isinstance(rows, slice) else rows
    units = np.empty((len(rows), source.outputs.text.shape[1]), np.float32)
    for start in range(0, len(rows), PIECE):
        fill(units[start : start + PIECE], items, rows[start : start + PIECE], source, mode, stats)
    return units


def fill(output: Floats, items: Distinct, rows: Ints, source: ModelOutputs, mode: str, stats: Any) -> None:
    """Write the unit vectors of some distinct items to (rows, D)."""
    outputs, modalities = source.outputs, items.modalities[rows]
    for number, modality in enumerate(MODALITIES):
        places = np.flatnonzero(modalities == number)
        if not len(places):
            continue
        chosen, target = rows[places], slice(None) if len(places) == len(rows) else places
        if modality == "image_text" and outputs.fused is not None:
            fused = fused_outputs(items, chosen, source)
            output[target] = calibration.vectors(None, None, mode, source.fusion, stats, fused, source.late)
            continue
        image = None if modality == "text" else image_outputs(items, chosen, outputs.image)
        text = None if modality == "image" else rows_of(outputs.text, items.texts[chosen])
        output[target] = calibration.vectors(image, text, mode, source.fusion, stats, late=source.late)


def image_outputs(items: Distinct, chosen: Ints, outputs: Floats | Stacked) -> Floats:
    """Return the outputs of chosen items' images, several of them pooled."""
    picked = rows_of(outputs, items.images[chosen])
    for place, item in enumerate(chosen.tolist() if items.several else []):
        if item in items.several:
            rows, _, weights, _ = items.several[item]
            picked[place] = pooled(rows_of(outputs, np.array(rows)), weights)
    return picked


def fused_outputs(items: Distinct, chosen: Ints, source: ModelOutputs) -> Floats:
    """Return the outputs of chosen items' images and texts together, several images in turns or else pooled."""
    fused, in_turns = source.outputs.fused, source.outputs.in_turns
    picked = rows_of(fused, np.searchsorted(source.keys, to_codes(items.images[chosen], items.texts[chosen])))
    for place, item in enumerate(chosen.tolist() if items.several else []):
        if item in items.several:
            rows, text, weights, places = items.several[item]
            if in_turns is not None and places:
                picked[place] = rows_of(in_turns, np.array([source.in_turns[InTurns(rows, text, places)]]))[0]
                continue
            together = to_codes(np.array(rows), np.full(len(rows), text))
            picked[place] = pooled(rows_of(fused, np.searchsorted(source.keys, together)), weights)
    return picked


class Vectors(NamedTuple):
    """Unit vectors of the distinct items of a table, and where each item's lies."""

    distinct: Floats  # (U, D)
    rows: Ints  # (n,) into distinct
    modalities: NDArray[np.int8]  # (U,) into MODALITIES


def all_vectors(table: Table, source: ModelOutputs) -> Vectors:
    """Return the uncalibrated unit vectors of a small table."""
    items = distinct_items([table])
    return Vectors(unit_vectors(items, slice(None), source, "none", None), items.rows, items.modalities)
