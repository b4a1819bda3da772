"""Files that hold many images, read in place: zip, tar, Parquet, Arrow and videos.

Nothing is unpacked. A process keeps directories of what it has opened, and a few row groups of Parquet.
"""

import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from gcl.common.errors import UserError
from gcl.data.videos import read_frame

MAX_BYTES = 1 << 28  # of an encoded image
IMAGE_FIELDS = ("image", "jpg", "png", "webp", "img", "image_binary")  # of packed rows


class TarIndex(NamedTuple):
    """Where the members of a tar file lie."""

    path: str
    members: dict[str, tuple[int, int]]  # name -> offset and bytes

    def read(self, name: str) -> bytes:
        """Return a member's bytes; a cut file is a ValueError."""
        offset, size = self.members[name]
        with open(self.path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise UserError(f"{self.path} ends within '{name}'; is it complete?")
        return data


@lru_cache(maxsize=4096)
def tar_index(path: str) -> TarIndex:
    """List a tar file's regular files; links and devices are not followed.

    Raises:
        UserError: it is no tar file, or compressed, so that it can't be read in place.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            return TarIndex(path, {m.name: (m.offset_data, m.size) for m in archive if m.isfile()})
    except (tarfile.TarError, EOFError, OSError, OverflowError) as error:
        raise UserError(f"can't read {path} as an uncompressed tar file: {error}") from error


@lru_cache(maxsize=32)
def open_zip(path: str, thread: int) -> zipfile.ZipFile:
    """Open a zip file, once per thread: its directory is large and its file position is shared."""
    return zipfile.ZipFile(path)


@lru_cache(maxsize=32)
def zip_names(path: str) -> frozenset[str]:
    """List a zip file's members.

    Raises:
        UserError: it is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(archive.namelist())
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"can't read {path} as a zip file: {error}") from error


class RowGroups(NamedTuple):
    """A Parquet file by its row groups."""

    path: Path
    columns: list[str]
    starts: list[int]  # first row of each group, and the number of rows

    def batches(self, column: str) -> Iterator[tuple[int, Any]]:
        """Yield (first row, values) of one column, a row group at a time."""
        for group, start in enumerate(self.starts[:-1]):
            try:
                yield start, row_group(str(self.path), group, column)
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"can't read row group {group} of {self.path}: {error}") from error


def parquet_row_groups(path: Path) -> RowGroups:
    """Read the footer of a Parquet file; a broken one is a ValueError that names it."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"can't read {path} as Parquet: {error}") from error
    starts = [0]
    for group in range(file.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    return RowGroups(path, file.schema_arrow.names, starts)


@lru_cache(maxsize=64)
def footer(path: str) -> RowGroups:
    """Keep footers of files that are read row by row."""
    return parquet_row_groups(Path(path))


@lru_cache(maxsize=8)
def row_group(path: str, group: int, column: str) -> pa.ChunkedArray:
    """Keep a few row groups of images: rows that are read one after the other lie together."""
    return pq.ParquetFile(path).read_row_group(group, [column])[column]


@lru_cache(maxsize=8)
def named_images(path: str) -> dict[str, bytes]:
    """Read a Parquet file whose images have ids (picture_id) instead of places."""
    table = pq.read_table(path, columns=["picture_id", "image"])
    return dict(zip(table["picture_id"].to_pylist(), table["image"].to_pylist(), strict=True))


@lru_cache(maxsize=256)
def arrow_table(path: str) -> pa.Table:
    """Map an Arrow file, as Hugging Face datasets saves them, without reading it.

    Raises:
        UserError: it is none.
    """
    try:
        return pa.ipc.open_stream(pa.memory_map(path)).read_all()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"can't read {path} as an Arrow stream: {error}") from error


def image_field(columns: list[str], path: str) -> str:
    """Return the column with the encoded images."""
    for name in IMAGE_FIELDS:
        if name in columns:
            return name
    raise UserError(f"{path} has no column of images ({', '.join(IMAGE_FIELDS)}), only {', '.join(columns)}")


def encoded(value: Any, path: str, key: str) -> bytes:
    """Return the bytes of {bytes, path} or of bytes."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise UserError(f"{path} row {key} holds no image bytes")
    return data


def from_parquet(path: str, key: str) -> bytes:
    """Return the image of a row, by number or picture_id."""
    rows = footer(path)
    if {"picture_id", "subject"} <= set(rows.columns):  # an embedded data set, see data/openclipart/README.md
        return named_images(path)[key]
    number = int(key)
    group = next(g for g, end in enumerate(rows.starts[1:]) if number < end)
    values = row_group(path, group, image_field(rows.columns, path))
    return encoded(values[number - rows.starts[group]].as_py(), path, key)


def from_arrow(path: str, key: str) -> bytes:
    """Return the image of a row, by number."""
    rows = arrow_table(path)
    return encoded(rows[image_field(rows.column_names, path)][int(key)].as_py(), path, key)


def from_zip(path: str, key: str) -> bytes:
    """Return a member of a zip file."""
    with open_zip(path, threading.get_ident()).open(key) as member:
        data = member.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: member '{key}' unpacks to more than {MAX_BYTES:,} bytes, which no image needs")
    return data


def from_tar(path: str, key: str) -> bytes:
    """Return a member of a tar file."""
    return tar_index(path).read(key)


UNREADABLE = (
    KeyError, IndexError, StopIteration, TypeError, OSError, EOFError, OverflowError, NotImplementedError, RuntimeError,
    struct.error, zipfile.BadZipFile, zlib.error, pa.ArrowException,
)  # fmt: skip
KINDS: dict[str, Callable[[str, str], bytes]] = {
    ".zip": from_zip,
    ".tar": from_tar,
    ".parquet": from_parquet,
    ".arrow": from_arrow,
    ".mp4": read_frame,
}


def read_member(path: str, key: str) -> bytes:
    """Return the encoded image `key` of a packed file.

    Raises:
        UserError: no such file, kind or member, or a cut one.
    """
    read = KINDS.get(Path(path).suffix)
    if read is None:
        raise UserError(f"{path} is no file that holds images ({', '.join(KINDS)})")
    try:
        return read(path, key)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except UNREADABLE as error:
        raise UserError(f"{path} has no image '{key}' that can be read: {error!r}") from None
