"""An index on disk: a LanceDB table that holds everything, and a copy of what a search reads.

index.json        the model by folder and hash, the calibration, the width, where the items came from
items.lance/      id, modality, path, text, thumbnail, vector, content, stamp: LanceDB's own files
scan/             vectors.npy, modalities.npy, items.arrow (id, modality, path, text) of one version of the table:
mapped into memory by a search, which needs not import LanceDB; made anew when the table changes
calibration.json  the model's, where it has one
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gcl.common.arrays import MODALITIES, Floats
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, write_json
from gcl.common.rows import made_by
from gcl.retrieve.scan.rounded import CODES, Rounded, open_rounded, write_rounded

FORMAT = 1
TABLE = "items"
ROWS = 4096  # that are read at a time
SHOWN = ["id", "modality", "path", "text"]
WORTH_ROUNDING = 65_536  # items; a search of fewer takes a few milliseconds as it is


class About(NamedTuple):
    """What index.json says."""

    model: str  # folder
    sha256: str  # of the model's files
    mode: str  # calibration: none, or center_zscore
    width: int
    source: str
    format: int = FORMAT
    late: int = 1  # vectors of an item


class Index(NamedTuple):
    """What a search reads: arrays that are mapped, not loaded."""

    folder: Path
    about: About
    vectors: Floats  # (n, D) unit vectors, centered where the mode says so
    modalities: np.ndarray  # (n,) int8 into MODALITIES
    items: pa.Table  # of SHOWN
    opened_ns: int  # time of scan/version.json when it was opened
    rounded: Rounded | None = None  # a copy of the vectors in 8 bits, of a large index


def schema(width: int) -> pa.Schema:
    """Return the columns of the table."""
    texts = ("id", "modality", "path", "text", "content", "stamp")
    fields = [*((name, pa.string()) for name in texts), ("thumbnail", pa.binary())]
    return pa.schema([*fields, ("vector", pa.list_(pa.float32(), width))])


def read_about(folder: Path) -> About:
    """Read index.json.

    Raises:
        UserError: there is no index, or one of another version.
    """
    path = folder / "index.json"
    if not path.exists():
        raise UserError(f"{folder} holds no index; make one with `gcl index FOLDER --model MODEL --output {folder}`")
    with made_by("index", path):
        about = About(**json.loads(path.read_text(encoding="utf-8")))
    if about.format != FORMAT:
        raise UserError(f"{folder} is an index of format {about.format}, expected {FORMAT}; make it anew")
    return about


def write_about(folder: Path, about: About) -> None:
    """Write index.json."""
    write_json(folder / "index.json", about._asdict())


def open_table(folder: Path, width: int | None = None) -> Any:
    """Open the table; with a width it is made where there is none.

    Raises:
        UserError: LanceDB is not installed, or the table is missing or broken.
    """
    try:
        import lancedb
    except ImportError as error:
        raise UserError("an index is a LanceDB table; `pip install 'gcl-retrieval[search]'` has it") from error
    try:
        database = lancedb.connect(str(folder))
        if width is not None and not (folder / f"{TABLE}.lance").exists():
            return database.create_table(TABLE, schema=schema(width))
        return database.open_table(TABLE)
    except (ValueError, OSError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{folder} holds no table that LanceDB can open ({first}); make the index anew") from error


def among(column: str, values: list[str]) -> str:
    """Return the SQL condition that a column has one of some values."""
    return "{} IN ({})".format(column, ", ".join("'{}'".format(value.replace("'", "''")) for value in values))


def upsert(table: Any, rows: dict[str, list[Any]], vectors: Floats) -> None:
    """Add rows, or put them in the place of those with the same ids, all at once or not at all."""
    width = vectors.shape[1]
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)
    wanted = schema(width)
    data = pa.table({**rows, "vector": column}).select(wanted.names).cast(wanted)
    table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(data)


def batches(table: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Read some columns of all rows, a few thousand at a time."""
    yield from table.search().select(columns).to_batches(ROWS)


def write_scan(folder: Path, table: Any, width: int) -> None:
    """Write scan/ of the table as it is, in memory that does not grow with it."""
    n = table.count_rows()
    shown = pa.schema([(name, pa.string()) for name in SHOWN])
    with atomic_path(folder / "scan") as scan:
        scan.mkdir()
        vectors = np.lib.format.open_memmap(scan / "vectors.npy", "w+", np.float32, (n, width)) if n else None
        codes, at = np.zeros(n, np.int8), 0
        with pa.ipc.new_file(scan / "items.arrow", shown) as file:
            for batch in batches(table, [*SHOWN, "vector"]):
                stop = at + len(batch)
                if vectors is not None:
                    vectors[at:stop] = batch["vector"].flatten().to_numpy().reshape(-1, width)
                codes[at:stop] = [MODALITIES.index(m) for m in batch["modality"].to_pylist()]
                file.write_batch(batch.select(SHOWN).cast(shown))
                at = stop
        if vectors is None:
            np.save(scan / "vectors.npy", np.empty((0, width), np.float32))
        else:
            vectors.flush()
            if n >= WORTH_ROUNDING:
                write_rounded(scan, vectors)
        np.save(scan / "modalities.npy", codes)
        write_json(scan / "version.json", {"rows": n, "version": table.version})


def is_current(folder: Path) -> bool:
    """Tell whether scan/ is of the newest version of the table, by the name of Lance's newest manifest alone."""
    path = folder / "scan/version.json"
    if not path.exists():
        return False
    version = json.loads(path.read_text(encoding="utf-8"))["version"]
    return bool(version == newest(folder))


def newest(folder: Path) -> int:
    """Return the newest version of the table: a manifest is named by it, or by what is left of 2^64 - 1."""
    numbers = [int(p.stem) for p in (folder / f"{TABLE}.lance/_versions").glob("*.manifest") if p.stem.isdigit()]
    if not numbers:
        raise UserError(f"{folder} holds no table {TABLE}.lance; make the index anew")
    top = 2**64 - 1
    return max(top - number if number > top // 2 else number for number in numbers)


def open_index(folder: Path) -> Index:
    """Open an index for searching; scan/ is made anew where the table has changed since.

    Raises:
        UserError: there is no index, it is half-written or broken.
    """
    about = read_about(folder)
    if not is_current(folder):
        write_scan(folder, open_table(folder), about.width)
    with made_by("index", folder):
        opened = (folder / "scan/version.json").stat().st_mtime_ns
        vectors = np.load(folder / "scan/vectors.npy", mmap_mode="r")
        modalities = np.load(folder / "scan/modalities.npy")
        items = pa.ipc.open_file(pa.memory_map(str(folder / "scan/items.arrow"))).read_all()
        if len(vectors) != len(items) or len(items) != len(modalities) or vectors.shape[1] != about.width:
            raise UserError(f"{folder}/scan is not of one piece; delete it and search again")
        copy = open_rounded(folder / "scan") if (folder / "scan" / CODES).exists() else None
        if copy is not None and len(copy) != len(vectors):
            raise UserError(f"{folder}/scan is not of one piece; delete it and search again")
    return Index(folder, about, vectors, modalities, items, opened, copy)


def thumbnail_of(table: Any, name: str) -> bytes:
    """Return the small picture of an item, by its id.

    Raises:
        UserError: the item is gone, or has none.
    """
    thumbnails = (
        table.search().where(among("id", [name])).select(["thumbnail"]).limit(1).to_arrow()["thumbnail"].to_pylist()
    )
    if not thumbnails or not thumbnails[0]:
        raise UserError(f"'{name}' has no picture")
    data: bytes = thumbnails[0]
    return data
