"""Training triplets: a query of image and text, and what is meant by it.

triplets.parquet  query_image, between_image, query_text, candidate_image, candidate_text   rows, NOTHING for none
                  negatives                                                                 rows of images

Rows are of the folder's own images and texts. A folder that `gcl.prepare.compose` made has texts only; its images are
those of the training pairs. `between_image` is a second image: the query's lies between both.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcl.common.arrays import Ints
from gcl.common.errors import UserError
from gcl.data.records import NO_TEXT, ContentRows, read_parquet

NOTHING = NO_TEXT
COLUMNS = ("query_image", "between_image", "query_text", "candidate_image", "candidate_text")


class Triplet(NamedTuple):
    """One, as its reader finds it."""

    name: str  # in its source, for messages
    query_image: str | None  # location
    query_text: str | None
    candidate_image: str | None
    candidate_text: str | None
    negatives: tuple[str, ...] = ()  # locations of images that are not meant
    fault: str = ""  # why it can't be used, where its reader knows

    @property
    def images(self) -> list[str]:
        """Return the locations of all its images."""
        return [image for image in (self.query_image, self.candidate_image, *self.negatives) if image is not None]


class Triplets(NamedTuple):
    """Triplets as read back: rows."""

    columns: Mapping[str, Ints]  # (T,) by COLUMNS
    negatives: list[list[int]]


def write_table(folder: Path, columns: Mapping[str, Iterable[int]], negatives: list[list[int]]) -> None:
    """Write triplets.parquet."""
    whole = {name: pa.array(columns[name], pa.int64()) for name in COLUMNS}
    pq.write_table(
        pa.table(whole | {"negatives": pa.array(negatives, pa.list_(pa.int64()))}), folder / "triplets.parquet"
    )


def write_triplets(folder: Path, triplets: Iterable[Triplet], digests: Mapping[str, str]) -> int:
    """Write a prepared folder of triplets; return how many."""
    units = ContentRows(digests)
    rows: dict[str, list[int]] = {name: [] for name in COLUMNS}
    negatives = []

    def image(location: str | None) -> int:
        return NOTHING if location is None else units.image(location)

    for triplet in triplets:
        query = (image(triplet.query_image), NOTHING, units.text(triplet.query_text))
        for name, row in zip(
            COLUMNS, (*query, image(triplet.candidate_image), units.text(triplet.candidate_text)), strict=True
        ):
            rows[name].append(row)
        negatives.append([units.image(location) for location in triplet.negatives])
    units.write(folder)
    write_table(folder, rows, negatives)
    return len(negatives)


def read_triplets(folder: Path) -> Triplets:
    """Read what write_triplets or write_table wrote.

    Raises:
        UserError: it is missing, broken, or holds none.
    """
    table = read_parquet(folder / "triplets.parquet")
    if not len(table):
        raise UserError(f"{folder} holds no triplet")
    columns: dict[str, Ints] = {name: np.asarray(table[name].to_numpy(), np.int64) for name in COLUMNS}
    return Triplets(columns, table["negatives"].to_pylist())
