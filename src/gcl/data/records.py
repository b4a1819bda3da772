"""The canonical tables that `prepare` writes and every later stage reads.

A prepared folder holds its distinct images and texts once; items and pairs refer to them by row:

    images.parquet   sha256              of the encoded bytes; equal files are one row
    locations.parquet location           where the bytes are, row by row, see images.py
    texts.parquet    text
    pairs.parquet    pair_id, image_row, text_rows             (training data; the first text is the full caption)
    rejects.csv      record, path, reason

A prepared benchmark has further tables, see items.py.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gcl.common.arrays import Ints
from gcl.common.errors import UserError

NO_TEXT = -1


class Pair(NamedTuple):
    """An image with its caption; further captions are shorter views of the first."""

    name: str  # in its source, for messages
    image: str  # location
    texts: tuple[str, ...]
    fault: str = ""  # why it can't be used, where its reader knows


class ContentRows:
    """Numbers distinct images and texts in the order in which they are first seen."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        """Take the sha256 of the bytes at every location."""
        self.digests = digests
        self.images: dict[str, int] = {}
        self.locations: list[str] = []
        self.texts: dict[str, int] = {}

    def image(self, location: str) -> int:
        """Return the row of an image."""
        digest = self.digests[location]
        if digest not in self.images:
            self.images[digest] = len(self.locations)
            self.locations.append(location)
        return self.images[digest]

    def text(self, text: str | None) -> int:
        """Return the row of a text, NO_TEXT for none."""
        return NO_TEXT if text is None else self.texts.setdefault(text, len(self.texts))

    def write(self, folder: Path) -> None:
        """Write images.parquet, locations.parquet and texts.parquet."""
        for name, column, values in (
            ("images", "sha256", list(self.images)),
            ("locations", "location", self.locations),
            ("texts", "text", list(self.texts)),
        ):
            pq.write_table(pa.table({column: pa.array(values, pa.string())}), folder / f"{name}.parquet")


def content_id(pair: Pair, digests: Mapping[str, str]) -> str:
    """Name a pair by its content: the same wherever the pair was read from."""
    return hashlib.sha256("\0".join([digests[pair.image], *pair.texts]).encode()).hexdigest()[:16]


def write_pairs(folder: Path, pairs: Iterable[Pair], digests: Mapping[str, str]) -> int:
    """Write a prepared folder of training pairs; return how many."""
    units = ContentRows(digests)
    rows = [(content_id(p, digests), units.image(p.image), [units.text(t) for t in p.texts]) for p in pairs]
    ids, images, texts = zip(*rows, strict=True) if rows else ((), (), ())
    units.write(folder)
    table = pa.table(
        {
            "pair_id": pa.array(ids, pa.string()),
            "image_row": pa.array(images, pa.int64()),
            "text_rows": pa.array(texts, pa.list_(pa.int64())),
        }
    )
    pq.write_table(table, folder / "pairs.parquet")
    return len(rows)


def write_rejects(path: Path, rejects: Iterable[tuple[str, str, str]]) -> None:
    """Write rejects.csv: the record's name in its source, its image, and why it was left out."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("record", "path", "reason"), *sorted(rejects)])


def read_parquet(path: Path, columns: list[str] | None = None, dictionary: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, some columns as dictionaries; a missing or broken one is a ValueError that names it."""
    try:
        table = pq.read_table(path, columns=columns, read_dictionary=dictionary)
        table.validate(full=True)  # text that is no UTF-8 would be found where nothing names the file
        return table
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; is the path right, and has what makes it been run?") from error
    except (OSError, pa.ArrowException) as error:
        size = f"{path.stat().st_size} bytes" if path.exists() else "missing"
        raise UserError(f"can't read {path} ({size}) as Parquet: {error}; delete it and run again") from error


class PreparedPairs(NamedTuple):
    """Training pairs as read back."""

    image_rows: np.ndarray  # (P,) int64
    text_rows: list[list[int]]  # per pair, the full caption first


def read_pairs(folder: Path) -> PreparedPairs:
    """Read what write_pairs wrote."""
    table = read_parquet(folder / "pairs.parquet")
    return PreparedPairs(table["image_row"].to_numpy(), table["text_rows"].to_pylist())


def fused_keys(folder: Path) -> Ints:
    """Return the distinct (image row, text row) that occur together in a prepared folder, (K, 2), sorted."""
    if (folder / "fused.parquet").exists():
        table = read_parquet(folder / "fused.parquet")
        return np.stack([table["image_row"].to_numpy(), table["text_row"].to_numpy()], axis=-1)
    if (folder / "pairs.parquet").exists():
        lists, single = "text_rows", "image_row"
        table = read_parquet(folder / "pairs.parquet", [single, lists])
    else:
        lists, single = "image_rows", "text_row"
        table = read_parquet(folder / "items.parquet", [lists, single])
        table = table.filter(pc.field(single) != NO_TEXT)
    many = table[lists].combine_chunks()
    each = np.repeat(table[single].to_numpy(), many.value_lengths().to_numpy())
    pair = (each, many.flatten().to_numpy())
    return split_codes(np.unique(to_codes(*(pair if single == "image_row" else pair[::-1]))))


def own_counts(folder: Path) -> tuple[int, int] | None:
    """Return how many images and texts of a folder of `share` are new; None for a prepared folder."""
    path = folder / "own.json"
    if not path.exists():
        return None
    own = json.loads(path.read_text(encoding="utf-8"))
    return own["images"], own["texts"]


def to_codes(images: Ints | np.int64, texts: Ints) -> Ints:
    """Return one number for each pair of rows from -1 to 2**31; numbers are in the order of the pairs."""
    codes: Ints = ((images + 1) << 32) | (texts + 1)
    return codes


def split_codes(codes: Ints) -> Ints:
    """Return the pairs of rows, (n, 2)."""
    return np.stack([(codes >> 32) - 1, (codes & 0xFFFFFFFF) - 1], axis=-1)
