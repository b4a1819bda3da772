"""Image folders of the Hugging Face hub: metadata.jsonl (or .csv) beside the images, a line for each.

A line has `file_name`, relative to its file, and a caption (`text`, `caption` or `title`).
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from gcl.common.errors import UserError
from gcl.data.records import Pair
from gcl.prepare.captions import CAPTION_COLUMNS, captions_of, decode_text, encoding_of
from gcl.prepare.folders import files_below, of_training
from gcl.prepare.pairs import IMAGE_COLUMNS, SUFFIXES, PairReader, at_fault, checked, column
from gcl.prepare.pairs.table import rows_of

NAMES = ("metadata.jsonl", "metadata.csv")


def image_folder(folder: Path) -> Iterator[Pair]:
    """Read every list of the training split, then name the images below it that none has."""
    paths = of_training(files_below(folder), folder, lambda path: path)
    lists = [path for path in paths if path.name.lower() in NAMES]
    listed: set[str] = set()
    for path in lists:
        prefix = f"{path.relative_to(folder)} "
        for pair in rows_of(path, prefix) if path.suffix.lower() == ".csv" else lines_of(path, prefix):
            listed.add(os.path.normpath(pair.image))
            yield pair
    for path in paths:
        if path.suffix.lower() in SUFFIXES and os.path.normpath(path) not in listed:
            name = str(path.relative_to(folder))
            yield at_fault(name, str(path), f"no line of {', '.join(NAMES)} names it")


def lines_of(path: Path, prefix: str) -> Iterator[Pair]:
    """Read a JSON object a line; a line that is none is at fault, by its number."""
    data = path.read_bytes()
    whole = encoding_of(data) != "utf-8"  # in UTF-16 lines do not end in the byte of a line feed
    lines = decode_text(data).encode().split(b"\n") if whole else data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield line_pair(f"{prefix}line {number}", line, path)


def line_pair(name: str, line: bytes, path: Path) -> Pair:
    """Make a pair of a line."""
    try:
        record = json.loads(decode_text(line))
        if not isinstance(record, dict):
            raise UserError(f"holds {str(record)[:60]!r}, expected an object with file_name and text")
        image = record[column(list(record), ("file_name", *IMAGE_COLUMNS), "image", path)]
        caption = record[column(list(record), CAPTION_COLUMNS, "caption", path)]
        if not isinstance(image, str) or not image:
            raise UserError(f"file_name is {image!r}, expected the path of an image relative to {path.name}")
    except (json.JSONDecodeError, RecursionError) as error:
        return at_fault(name, "", f"no JSON: {error}")
    except UserError as error:
        return at_fault(name, "", str(error))
    return checked(name, str(path.parent / image), lambda: captions_of(caption))


READER = PairReader(image_folder, lambda listing: any(name in NAMES for name in listing.names))
