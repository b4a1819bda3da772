"""Parquet files: a column of encoded images, {bytes, path} or plain bytes, or of their paths, and one of captions."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gcl.common.errors import UserError
from gcl.data.containers import image_field, parquet_row_groups
from gcl.data.records import Pair
from gcl.prepare.captions import CAPTION_COLUMNS, captions_of, values_of
from gcl.prepare.folders import files_below, of_training
from gcl.prepare.pairs import IMAGE_COLUMNS, PairReader, checked, column

Batches = Callable[[str], Iterator[tuple[int, Any]]]  # column -> batches (first row, values)


def parquet(folder: Path) -> Iterator[Pair]:
    """Read Parquet files, in the order of their names: image bytes, or paths relative to the file."""
    files = [path for path in files_below(folder) if path.suffix.lower() == ".parquet"]
    if not files:
        raise UserError(f"{folder} holds no .parquet file")
    for path in of_training(files, folder, lambda path: path):
        yield from file_pairs(path)


def file_pairs(path: Path) -> Iterator[Pair]:
    """Read one Parquet file."""
    groups = parquet_row_groups(path)
    yield from packed_pairs(path, pq.read_schema(path), groups.batches)


def packed_pairs(path: Path, schema: pa.Schema, batches: Batches) -> Iterator[Pair]:
    """Read the pairs of a packed file: its images are in its rows, or a column of text says where they lie.

    Args:
        path: of the file.
        schema: its columns and their types.
        batches: column -> batches (first row, values).
    """
    image = column(schema.names, IMAGE_COLUMNS, "image", path)
    caption = column(schema.names, CAPTION_COLUMNS, "caption", path)
    kind = schema.field(image).type
    if not is_text(kind):
        image_field(schema.names, str(path))
    has_paths = is_text(kind) or (pa.types.is_struct(kind) and {"bytes", "path"} <= {f.name for f in kind})
    for (first, captions), (_, images) in zip(batches(caption), batches(image if has_paths else caption), strict=True):
        texts = values_of(captions)
        paths = paths_of(images) if has_paths else [None] * len(texts)
        for number, (text, name) in enumerate(zip(texts, paths, strict=True), first):
            location = f"{path}::{number}" if name is None else str(path.parent / os.fsdecode(name))
            yield checked(f"{path.name} row {number}", location, partial(captions_of, text))


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a column holds text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def paths_of(images: pa.ChunkedArray) -> list[Any]:
    """Return the path of each image, None where its bytes are in the row: of {bytes: null, path} the path counts."""
    if is_text(images.type):
        return [name or "" for name in values_of(images)]
    no_bytes = pc.is_null(pc.struct_field(images, "bytes")).to_pylist()
    names = values_of(pc.struct_field(images, "path"))
    return [name if alone else None for alone, name in zip(no_bytes, names, strict=True)]


READER = PairReader(parquet, lambda listing: any(name.endswith(".parquet") for name in listing.names))
