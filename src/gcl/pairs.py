"""Readers of training pairs: from a data set's files to (id, image, captions)."""

import csv
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


IMAGE_COLUMNS = ("filepath", "image", "image_path", "path", "file_name")
CAPTION_COLUMNS = ("title", "caption", "text")


def column(found: list[str], wanted: tuple[str, ...], what: str, path: Path) -> str:
    """Return the column that holds `what`, by its usual names."""
    for name in wanted:
        if name in found:
            return name
    raise ValueError(
        f"{path} has no column for the {what}: found {', '.join(found)}; name it one of {', '.join(wanted)}"
    )


def table(folder: Path) -> Iterator[Pair]:
    """Read pairs.csv or pairs.tsv: a column of image paths, relative to the file, and one of captions.

    The separator is whichever of comma, tab and semicolon the header has most of. Empty captions are
    left for `prepare` to reject and list.
    """
    path = next((p for p in (folder / "pairs.csv", folder / "pairs.tsv") if p.exists()), None)
    if path is None:
        raise ValueError(f"{folder} holds neither pairs.csv nor pairs.tsv")
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = file.readline()
        file.seek(0)
        rows = csv.DictReader(file, delimiter=max(",\t;", key=header.count), strict=True)
        found = list(rows.fieldnames or [])
        image, caption = column(found, IMAGE_COLUMNS, "image", path), column(found, CAPTION_COLUMNS, "caption", path)
        try:
            for number, row in enumerate(rows, 1):
                yield Pair(str(number), str(folder / (row[image] or "")), (row[caption] or "",))
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}") from error


READERS: dict[str, Callable[[Path], Iterator[Pair]]] = {"pictures": pictures, "lcs558k": lcs558k, "table": table}
