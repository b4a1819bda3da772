"""Items whose texts and images stand in turns, which some models read in that order.

An item's text is one, and `places` says for each of its images how many characters of it stand before. An item of one
image before its text has no places: that is how all are read.
"""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from gcl.data.items import write_columns
from gcl.data.records import NO_TEXT, read_parquet

FILE = "in_turns.parquet"  # in a folder of `share`


class InTurns(NamedTuple):
    """What is read in order: rows of images and of the text, and where the images stand."""

    images: tuple[int, ...]
    text: int
    places: tuple[int, ...]


def items_in_turns(folder: Path) -> list[InTurns]:
    """Return the distinct ones of a prepared folder, or of what `share` made of it, in order of first occurrence."""
    shared, items = folder / FILE, folder / "items.parquet"
    if not (shared.exists() or items.exists()):  # pairs
        return []
    path = shared if shared.exists() else items
    has_places = pc.greater(pc.list_value_length(read_parquet(path, ["places"])["places"]), 0)
    if not pc.any(has_places).as_py():  # most benchmarks, some with millions of items
        return []
    table = read_parquet(path, ["image_rows", "text_row", "places"]).filter(has_places)
    columns = (table[name].to_pylist() for name in ("image_rows", "text_row", "places"))
    rows = (InTurns(tuple(i), t, tuple(p)) for i, t, p in zip(*columns, strict=True))
    return list(dict.fromkeys(item for item in rows if item.text != NO_TEXT))


def write_in_turns(folder: Path, items: list[InTurns]) -> None:
    """Write them as `items_in_turns` reads them."""
    kinds = {"image_rows": pa.list_(pa.int64()), "text_row": pa.int64(), "places": pa.list_(pa.int32())}
    write_columns(folder / FILE, kinds, items)


def pieces(text: str, places: tuple[int, ...]) -> list[str | int]:
    """Return an item's texts, and numbers for its images, in order.

    Example:
        >>> pieces("mix it, and bake", (0, 7))
        [0, 'mix it,', 1, 'and bake']
    """
    parts: list[str | int] = []
    at = 0
    for number, place in sorted(enumerate(places), key=lambda pair: (pair[1], pair[0])):
        parts += [text[at:place].strip(), number]
        at = place
    return [piece for piece in [*parts, text[at:].strip()] if piece != ""]
