"""Find what a benchmark has in common with those before it, so that nothing is embedded twice.

In:  a prepared benchmark, and what is embedded of the benchmarks before it: prepared folders, or what this stage
     made of them.
Out: a folder that `infer` reads as it reads a prepared one:
       images.parquet, locations.parquet, texts.parquet   the new ones, then those that a new combination needs
       fused.parquet                                      image_row, text_row of the new combinations
       in_turns.parquet                                   items of texts and images in turns, all of this benchmark's
       own.json                                           how many images and texts are new
     and image.npy, text.npy, image_text.npy, in_turns.npy: for every row of the prepared benchmark its row in the
     embeddings of all, one benchmark after the other.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gcl.common.arrays import Ints
from gcl.common.command import parser, run
from gcl.common.files import atomic_path
from gcl.data.in_turns import InTurns, items_in_turns, write_in_turns
from gcl.data.records import fused_keys, own_counts, read_parquet, split_codes, to_codes


class Content(NamedTuple):
    """What is embedded of a benchmark."""

    images: pa.ChunkedArray  # sha256
    texts: pa.ChunkedArray
    keys: Ints  # (K, 2) rows of images and texts that occur together
    own: tuple[int, int]  # the first so many images and texts have outputs of their own here


def read_content(folder: Path) -> Content:
    """Read a prepared folder, or what `share` made of one."""
    images = read_parquet(folder / "images.parquet")["sha256"]
    texts = read_parquet(folder / "texts.parquet")["text"]
    return Content(images, texts, fused_keys(folder), own_counts(folder) or (len(images), len(texts)))


def rows_in(known: Sequence[pa.ChunkedArray], values: pa.ChunkedArray) -> Ints:
    """Return where each value first stands in the known arrays, one after the other; -1 for none."""
    among = pa.chunked_array([chunk for array in known for chunk in array.chunks], values.type)
    return np.asarray(pc.fill_null(pc.index_in(values, value_set=among), -1)).astype(np.int64)


def as_column(numbers: Ints) -> pa.ChunkedArray:
    """Return an array as a column."""
    return pa.chunked_array([pa.array(numbers)])


def continued(rows: Ints, known: int) -> Ints:
    """Return the row of every value: where it was found, or the next free row after the known ones."""
    is_new = rows < 0
    return np.where(is_new, known + np.cumsum(is_new) - 1, rows)


def new_first(is_new: np.ndarray, needed: Ints) -> Ints:
    """Return the new rows, then those that are needed besides."""
    return np.concatenate([np.flatnonzero(is_new), np.setdiff1d(needed, np.flatnonzero(is_new))])


def share(earlier: list[Path], prepared: Path, output: Path) -> None:
    """Write what of `prepared` is new after `earlier`, and where the rest lies.

    Raises:
        UserError: an unreadable folder.
    """
    content, others = read_content(prepared), [read_content(folder) for folder in earlier]
    images, texts = [o.images[: o.own[0]] for o in others], [o.texts[: o.own[1]] for o in others]
    found_image, found_text = rows_in(images, content.images), rows_in(texts, content.texts)
    rows = {
        "image": continued(found_image, sum(map(len, images))),
        "text": continued(found_text, sum(map(len, texts))),
    }
    known_keys = [
        to_codes(rows_in(images, o.images)[o.keys[:, 0]], rows_in(texts, o.texts)[o.keys[:, 1]]) for o in others
    ]
    codes = to_codes(rows["image"][content.keys[:, 0]], rows["text"][content.keys[:, 1]])
    found_key = rows_in([as_column(k) for k in known_keys], as_column(codes))
    new_keys = content.keys[found_key < 0]
    turns = items_in_turns(prepared)
    in_turns = [row for item in turns for row in item.images], [item.text for item in turns]
    taken_images = new_first(found_image < 0, np.append(new_keys[:, 0], in_turns[0]).astype(np.int64))
    taken_texts = new_first(found_text < 0, np.append(new_keys[:, 1], in_turns[1]).astype(np.int64))
    place_image, place_text = inverse(taken_images, len(content.images)), inverse(taken_texts, len(content.texts))
    here = to_codes(place_image[new_keys[:, 0]], place_text[new_keys[:, 1]])
    rows["image_text"] = found_key.copy()
    rows["image_text"][found_key < 0] = sum(map(len, known_keys)) + np.argsort(np.argsort(here))
    locations = read_parquet(prepared / "locations.parquet")["location"]
    with atomic_path(output) as folder:
        folder.mkdir()
        for name, column, values, taken in (
            ("images", "sha256", content.images, taken_images),
            ("locations", "location", locations, taken_images),
            ("texts", "text", content.texts, taken_texts),
        ):
            pq.write_table(pa.table({column: values.take(pa.array(taken))}), folder / f"{name}.parquet")
        pairs = split_codes(np.sort(here))
        pq.write_table(pa.table({"image_row": pairs[:, 0], "text_row": pairs[:, 1]}), folder / "fused.parquet")
        places = [tuple(place_image[list(item.images)].tolist()) for item in turns]
        write_in_turns(
            folder, [InTurns(p, int(place_text[i.text]), i.places) for p, i in zip(places, turns, strict=True)]
        )
        own = {"images": int((found_image < 0).sum()), "texts": int((found_text < 0).sum())}
        (folder / "own.json").write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")
        before = sum(len(items_in_turns(path)) for path in earlier)
        for name, array in (rows | {"in_turns": before + np.arange(len(turns))}).items():
            np.save(folder / f"{name}.npy", array)


def inverse(taken: Ints, n: int) -> Ints:
    """Return for each of n rows its place among those taken; -1 for none."""
    places = np.full(n, -1, np.int64)
    places[taken] = np.arange(len(taken))
    return places


def main() -> None:
    """Run from the command line."""
    options = parser(
        "share",
        __doc__,
        "--earlier results/prepared/mbeir --prepared results/prepared/cirr --output results/shared/cirr",
    )
    options.add_argument("--earlier", required=True, nargs="+", type=Path, help="what is embedded of those before it")
    options.add_argument("--prepared", required=True, type=Path, help="prepared benchmark")
    options.add_argument("--output", required=True, type=Path, help="folder to write")
    run(options, share)


if __name__ == "__main__":
    main()
