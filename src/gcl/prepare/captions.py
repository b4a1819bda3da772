"""Captions as they lie in files: text in any encoding that says which it is, JSON, cells of tables."""

import codecs
import json
import math
from typing import Any

from gcl.common.errors import UserError
from gcl.data.annotations import well_formed

CAPTION_COLUMNS = ("title", "caption", "text", "txt", "captions", "sentence")
MARKS = {  # byte order marks; UTF-32's begins with UTF-16's
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding_of(data: bytes) -> str:
    """Return the encoding that a byte order mark names; without one text is UTF-8, whatever the locale."""
    return next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")


def decode_text(data: bytes) -> str:
    """Decode a text.

    Raises:
        UserError: it is not in the encoding that it says, or says none and is not UTF-8.
    """
    try:
        return data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        wrong = data[error.start : error.start + 1].hex()
        raise UserError(f"text is no {error.encoding} (byte 0x{wrong} at {error.start}); save it as UTF-8") from error


def captions_of(value: Any) -> tuple[str, ...]:
    """Return the captions in a field: a text, or a list of them; none where it is null or NaN.

    Raises:
        UserError: something else, or a text that is not well-formed.
    """
    if isinstance(value, list):
        return tuple(caption for inner in value for caption in captions_of(inner))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ()
    if not isinstance(value, str):
        raise UserError(f"caption is {str(value)[:60]!r}, a {type(value).__name__}, expected a text or a list of texts")
    return (well_formed(value, "caption"),)


def json_captions(data: bytes) -> tuple[str, ...]:
    """Return the captions in a JSON side-car: an object with one of the usual keys, or a list of texts.

    Raises:
        UserError: it is no JSON, or holds no caption in these forms.
    """
    try:
        about = json.loads(decode_text(data))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"side-car is no JSON: {error}") from error
    if isinstance(about, dict):
        name = next((n for n in CAPTION_COLUMNS if n in about), None)
        return captions_of(about[name]) if name else ()
    if isinstance(about, list):
        return captions_of(about)
    raise UserError(f"side-car holds {str(about)[:60]!r}, expected an object with one of {', '.join(CAPTION_COLUMNS)}")


def side_car_captions(suffix: str, data: bytes) -> tuple[str, ...]:
    """Return the captions in a side-car, .txt or .json."""
    return json_captions(data) if suffix == ".json" else (well_formed(decode_text(data), "caption"),)


def values_of(cells: Any) -> list[Any]:
    """Return the values of a column; a text that is no UTF-8 stays bytes, so that only its record is rejected."""
    try:
        values: list[Any] = cells.to_pylist()
        return values
    except UnicodeDecodeError:
        return [value_of(cell) for cell in cells]


def value_of(cell: Any) -> Any:
    """Return the value of a cell, or the bytes of a text that is no UTF-8."""
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return cell.as_buffer().to_pybytes() if hasattr(cell, "as_buffer") else b""
