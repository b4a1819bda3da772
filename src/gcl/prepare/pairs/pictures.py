"""The demo's pairs: the training split of data/openclipart."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gcl.data.records import Pair, read_parquet
from gcl.prepare.pairs import PairReader


def description_of(row: dict[str, Any]) -> str:
    """Join keywords and description, what is said of a picture besides its title."""
    return ". ".join(part for part in (", ".join(row["keywords"]), row["description"]) if part)


def pictures(folder: Path) -> Iterator[Pair]:
    """Read the training split; captions are {full, title, keywords and description}."""
    path = folder / "pictures.parquet"
    columns = ["picture_id", "split", "title", "keywords", "description"]
    for row in read_parquet(path, columns).to_pylist():
        if row["split"] == "train":
            views = (". ".join(t for t in (row["title"], description_of(row)) if t), row["title"], description_of(row))
            yield Pair(row["picture_id"], f"{path}::{row['picture_id']}", tuple(dict.fromkeys(v for v in views if v)))


READER = PairReader(pictures, lambda listing: "pictures.parquet" in listing.tops)
