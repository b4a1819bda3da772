"""Records of annotation files, with errors that name the file, the line and the key."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from gcl.common.errors import UserError
from gcl.data.containers import parquet_row_groups

T = TypeVar("T")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def read_text(path: Path) -> str:
    """Read a text file; a missing or undecodable one is a ValueError that names it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read {path}: {error}; fetch the data set again") from error


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON: {error}") from error


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, record) of a JSON file that is a list of objects."""
    records = read_json(path)
    if not isinstance(records, list):
        raise UserError(f"{path}: expected a list of records, found {type(records).__name__}")
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(f"{path} record {number}: expected an object, found {record!r}")
        yield f"{path} record {number}", record


def value_of(record: Any, key: str, kind: type[T], place: str) -> T:
    """Return a value of a record that must be there and of a kind."""
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise UserError(f"{place}: '{key}' is {value!r}, expected {kind.__name__}")
    if isinstance(value, str):
        well_formed(value, f"{place}: '{key}'")
    return value


def well_formed(text: str, what: str) -> str:
    """Return a text that UTF-8 can hold.

    Raises:
        UserError: it holds a lone surrogate: half of a character, or a byte of a name that is not UTF-8.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{what} {text!r} is not well-formed Unicode (at {error.start}); mend or rename it") from error
    return text


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of the lines that aren't blank; a place is file:number."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", line.rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read {path}: {error}; fetch the data set again") from error


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, record) of a file with one JSON object per line."""
    for place, line in read_lines(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{place}: no JSON: {error}; is the file cut?") from error
        if not isinstance(record, dict):
            raise UserError(f"{place}: expected an object, found {line[:60]!r}")
        yield place, record


def text_of(record: dict[str, Any], key: str, place: str) -> str:
    """Return a string that must be there."""
    value = record.get(key)
    if not isinstance(value, str) or not value:
        raise UserError(f"{place}: '{key}' is {value!r}, expected a string that isn't empty")
    return well_formed(value, f"{place}: '{key}'")


def text_or_none(record: dict[str, Any], key: str, place: str) -> str | None:
    """Return a string, or None where the key is null, absent or the string empty."""
    value = record.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{place}: '{key}' is {value!r}, expected a string or null")
    return well_formed(value, f"{place}: '{key}'") if value else None


def locate(images: Path, name: str, place: str) -> str:
    """Return the location of an image in a folder, or in a zip or tar file that is read in place.

    Raises:
        UserError: the name leaves the folder.
    """
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise UserError(f"{place}: path {name!r} leaves the folder of images")
    return f"{images}::{name}" if images.suffix in (".zip", ".tar") else str(images / name)


def image_at(images: Path, name: str, place: str) -> str:
    """Return the location of an image; its suffix may be another than the annotations' (M-BEIR's copies are JPEG)."""
    path = images / name
    try:
        location = next((p for p in (path, *(path.with_suffix(s) for s in IMAGE_SUFFIXES)) if p.exists()), path)
    except (OSError, ValueError) as error:  # a name that no file can have
        raise UserError(f"{place}: {name[:80]!r} is no name of an image: {error}") from error
    return locate(images, str(location.relative_to(images)), place)


def clean_edit(text: str, max_words: int = 30) -> str:
    """Clean a text that modifies an image, as CoVR's evaluations do: lower case, some marks become spaces, 30 words."""
    text = re.sub(r"[.!\"()*#:;~]", " ", text.lower())
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])


def read_rows(
    path: Path, needed: Sequence[str], optional: Sequence[str] = (), present: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, record) of a Parquet file, a row group at a time.

    Args:
        path: of the file.
        needed: columns that must be there.
        optional: columns that are None where the file has none.
        present: columns of which a record says only whether there is a value: pictures, for one.

    Raises:
        UserError: it is no Parquet file, or lacks a column; names both.
    """
    groups = parquet_row_groups(path)
    if lacking := [name for name in (*needed, *present) if name not in groups.columns]:
        raise UserError(f"{path} has no column {', '.join(lacking)}, only {', '.join(groups.columns)}")
    names = [*needed, *(name for name in optional if name in groups.columns), *present]
    empty = dict.fromkeys(optional)
    for batch in zip(*map(groups.batches, names), strict=True):
        start = batch[0][0]
        try:
            columns = [
                (values.is_valid() if name in present else values).to_pylist()
                for name, (_, values) in zip(names, batch, strict=True)
            ]
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, rows from {start}: text that is no UTF-8: {error}") from error
        for number, row in enumerate(zip(*columns, strict=True), start):
            yield f"{path} row {number}", empty | dict(zip(names, row, strict=True))
