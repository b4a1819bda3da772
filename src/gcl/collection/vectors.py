"""Hand an index's vectors on to another engine.

In:  an index (`gcl index`).
Out: --format parquet: one file: id, modality, path, text, vector as fixed_size_list<float>
     --format npy:     clip-retrieval's layout: img_emb/img_emb_0.npy, metadata/metadata_0.parquet
     --format faiss:   an IndexFlatIP, and ids.txt beside it, a line for each of its rows

--queries text (or image, image_text) folds the calibration in: a candidate's vector is times its scale, with its offset
as one more number, and a query of that modality has 1 there. Then the inner product is the z-score, in any engine.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gcl.collection.store import Index, open_index
from gcl.common.arrays import MODALITIES, Floats
from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.retrieve.calibration import affine, read_calibration

log = logging.getLogger(__name__)

ROWS = 65536  # that are written at a time


def folded(index: Index, queries: str | None) -> Callable[[slice], Floats]:
    """Return what gives rows of vectors: as they are, (n, D), or with the calibration folded in, (n, D + 1).

    Raises:
        UserError: the index has no calibration to fold in.
    """
    if queries is None:
        return lambda rows: np.asarray(index.vectors[rows])
    path = index.folder / "calibration.json"
    if index.about.mode == "none":
        raise UserError(f"the model of {index.folder} has no calibration to fold in: leave --queries out")
    factors, offsets = affine(index.about.mode, queries, MODALITIES, read_calibration(path))

    def rows_of(rows: slice) -> Floats:
        codes = index.modalities[rows]
        scaled = index.vectors[rows] * factors[codes, None]
        return np.concatenate([scaled, offsets[codes, None]], 1).astype(np.float32)

    return rows_of


def parts(index: Index) -> Iterator[slice]:
    """Cut the rows into pieces."""
    yield from (slice(start, min(start + ROWS, len(index.items))) for start in range(0, len(index.items), ROWS))


def write_parquet(index: Index, rows_of: Callable[[slice], Floats], width: int, output: Path) -> None:
    """Write one Parquet file."""
    schema = index.items.schema.append(pa.field("vector", pa.list_(pa.float32(), width)))
    with atomic_path(output) as path, pq.ParquetWriter(path, schema) as file:
        for part in parts(index):
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows_of(part).reshape(-1)), width)
            items = index.items.slice(part.start, part.stop - part.start)
            file.write_table(items.append_column("vector", vectors).cast(schema))


def write_npy(index: Index, rows_of: Callable[[slice], Floats], width: int, output: Path) -> None:
    """Write the folders that clip-retrieval's `index` reads."""
    n = len(index.items)
    with atomic_path(output) as folder:
        for name in ("img_emb", "metadata"):
            (folder / name).mkdir(parents=True)
        vectors = np.lib.format.open_memmap(folder / "img_emb/img_emb_0.npy", "w+", np.float32, (n, width))
        for part in parts(index):
            vectors[part] = rows_of(part)
        vectors.flush()
        names = ["id", "modality", "image_path", "caption"]
        pq.write_table(index.items.rename_columns(names), folder / "metadata/metadata_0.parquet")


def write_faiss(index: Index, rows_of: Callable[[slice], Floats], width: int, output: Path) -> None:
    """Write a flat index of inner products.

    Raises:
        UserError: FAISS is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError("--format faiss needs FAISS: `pip install faiss-cpu`") from error
    flat = faiss.IndexFlatIP(width)
    for part in parts(index):
        flat.add(np.ascontiguousarray(rows_of(part)))
    with atomic_path(output) as folder:
        folder.mkdir()
        faiss.write_index(flat, str(folder / "vectors.faiss"))
        (folder / "ids.txt").write_text(
            "".join(f"{name}\n" for name in index.items["id"].to_pylist()), encoding="utf-8"
        )


FORMATS = {"parquet": write_parquet, "npy": write_npy, "faiss": write_faiss}


def vectors(folder: Path, form: str, queries: str | None, output: Path) -> dict[str, Any]:
    """Write an index's vectors.

    Raises:
        UserError: no such index, an empty one, several vectors an item, or none of the calibration that is asked for.
    """
    index = open_index(folder)
    if index.about.late > 1:
        raise UserError(f"{folder} has {index.about.late} vectors an item, which no engine here compares by maxsim")
    if not len(index.items):
        raise UserError(f"{folder} holds no items")
    width = index.about.width + (queries is not None)
    FORMATS[form](index, folded(index, queries), width, output)
    log.info("%d vectors of %d numbers in %s", len(index.items), width, output)
    return {"rows": len(index.items), "width": width}


def main() -> None:
    """Run from the command line."""
    options = parser("vectors", __doc__, "photos.index --format parquet --queries text --output photos.parquet")
    options.add_argument("folder", type=Path, metavar="INDEX", help="folder that `index` wrote")
    options.add_argument("--format", dest="form", default="parquet", choices=list(FORMATS), help="(parquet)")
    options.add_argument("--queries", choices=MODALITIES, help="fold in the calibration for queries of this modality")
    options.add_argument("--output", required=True, type=Path, help="file (parquet) or folder to write")
    run(options, vectors)


if __name__ == "__main__":
    main()
