"""Readers of training pairs: from a data set's files to (id, image, captions)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gcl.records import Pair, read_parquet


def describe(row: dict[str, Any]) -> str:
    """Join keywords and description, what is said of a picture besides its title."""
    return ". ".join(part for part in (", ".join(row["keywords"]), row["description"]) if part)


def pictures(folder: Path) -> Iterator[Pair]:
    """Read the training split of data/openclipart; captions are {full, title, keywords and description}."""
    path = folder / "pictures.parquet"
    columns = ["picture_id", "split", "title", "keywords", "description"]
    for row in read_parquet(path, columns).to_pylist():
        if row["split"] == "train":
            views = (". ".join(t for t in (row["title"], describe(row)) if t), row["title"], describe(row))
            yield Pair(row["picture_id"], f"{path}::{row['picture_id']}", tuple(dict.fromkeys(v for v in views if v)))


def lcs558k(folder: Path) -> Iterator[Pair]:
    """Read LLaVA's pretraining pairs: the caption is the answer of each conversation, images stay in the zip."""
    path = folder / "blip_laion_cc_sbu_558k.json"
    try:
        rows = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"can't read {path} as JSON: {error}") from error
    for row in rows:
        answers = [turn["value"].strip() for turn in row["conversations"] if turn["from"] == "gpt"]
        yield Pair(row["id"], f"{folder / 'images.zip'}::{row['image']}", tuple(answers[:1]))


READERS: dict[str, Callable[[Path], Iterator[Pair]]] = {"pictures": pictures, "lcs558k": lcs558k}
