"""Readers of training pairs: from a data set's files to (name, image, captions).

A reader yields a Pair per record and leaves what is wrong with single records to `prepare`, which lists it.

    table        one .csv or .tsv: a column of image paths, relative to it, and one of captions
    folder       images with a .txt (or a .json with a caption) of the same stem, at any depth
    webdataset   tar shards as img2dataset writes them: 000000000.jpg, 000000000.txt, 000000000.json
    parquet      a column of encoded images, {bytes, path} or plain bytes, or of their paths, and one of captions
    datasets     a folder that Hugging Face datasets saved (save_to_disk), or its Parquet files
    lcs558k      LLaVA's pretraining pairs, images in their zip
    pictures     the demo's
    auto         whichever of these the files look like
"""

import csv
import json
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gcl.common.errors import UserError
from gcl.data.containers import TarIndex, arrow_table, image_field, parquet_row_groups, tar_index
from gcl.data.records import Pair, read_parquet
from gcl.prepare.captions import CAPTION_COLUMNS, captions_of, encoding_of, side_car_captions, values_of, well_formed
from gcl.prepare.folders import files_below, is_of_the_system, of_training

log = logging.getLogger(__name__)

IMAGE_COLUMNS = ("filepath", "image", "image_path", "path", "file_name", "jpg", "png", "webp", "img")
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
SIDE_CARS = (".txt", ".json")


def description_of(row: dict[str, Any]) -> str:
    """Join keywords and description, what is said of a picture besides its title."""
    return ". ".join(part for part in (", ".join(row["keywords"]), row["description"]) if part)


def pictures(folder: Path) -> Iterator[Pair]:
    """Read the training split of data/openclipart; captions are {full, title, keywords and description}."""
    path = folder / "pictures.parquet"
    columns = ["picture_id", "split", "title", "keywords", "description"]
    for row in read_parquet(path, columns).to_pylist():
        if row["split"] == "train":
            views = (". ".join(t for t in (row["title"], description_of(row)) if t), row["title"], description_of(row))
            yield Pair(row["picture_id"], f"{path}::{row['picture_id']}", tuple(dict.fromkeys(v for v in views if v)))


def lcs558k(folder: Path) -> Iterator[Pair]:
    """Read LLaVA's pretraining pairs: the caption is the answer of each conversation, images stay in the zip."""
    path = folder / "blip_laion_cc_sbu_558k.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"can't read {path} as JSON: {error}") from error
    for number, row in enumerate(rows):
        try:
            answers = [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"]
            yield Pair(str(row["id"]), f"{folder / 'images.zip'}::{row['image']}", tuple(answers[:1]))
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path}, record {number}: expected id, image and conversations of LLaVA's form, lacks {error}"
            ) from error


def column(found: list[str], wanted: tuple[str, ...], what: str, path: Path) -> str:
    """Return the column that holds `what`, by its usual names.

    Raises:
        UserError: there is none; says what is there and what would do.
    """
    for name in wanted:
        if name in found:
            return name
    raise UserError(
        f"{path} has no column for the {what}: found {', '.join(found) or 'nothing'}; "
        f"name it one of {', '.join(wanted)}"
    )


def checked(name: str, image: str, captions: Callable[[], tuple[str, ...]]) -> Pair:
    """Make a pair; what is wrong with its names or captions becomes its fault, so that `prepare` lists it."""
    try:
        return Pair(well_formed(name, "name"), well_formed(image, "file name"), captions())
    except (UserError, OSError) as error:
        name, image, why = (t.encode("utf-8", "backslashreplace").decode() for t in (name, image, str(error)))
        return Pair(name, image, (), why)


def only_file(folder: Path, suffixes: tuple[str, ...], preferred: str) -> Path:
    """Return `preferred` with one of the suffixes, or the only file that has one."""
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name != "rejects.csv")
    named = [p for p in found if p.stem == preferred]
    if len(named or found) == 1:
        return (named or found)[0]
    what = f"{len(found)} files" if found else "no file"
    raise UserError(
        f"{folder} holds {what} with suffix {' or '.join(suffixes)}; name the one to read {preferred}{suffixes[0]}"
    )


def table(folder: Path) -> Iterator[Pair]:
    """Read pairs.csv or .tsv, or the only such file; the separator is what the header has most of , tab and ;."""
    path = only_file(folder, (".csv", ".tsv"), "pairs")
    with path.open("rb") as start:
        encoding = encoding_of(start.read(4))
    with path.open(newline="", encoding="utf-8-sig" if encoding == "utf-8" else encoding) as file:
        try:
            header = file.readline()
            file.seek(0)
            rows = csv.reader(file, delimiter=max(",\t;", key=header.count), strict=True)
            names = next(rows, [])
            image, caption = (
                column(names, IMAGE_COLUMNS, "image", path),
                column(names, CAPTION_COLUMNS, "caption", path),
            )
            if twice := [name for name in (image, caption) if names.count(name) > 1]:
                raise UserError(f"{path} has {names.count(twice[0])} columns named {twice[0]}; rename one")
            for row in filter(None, rows):
                yield row_pair(row, names, f"line {rows.line_num}", folder, names.index(image), names.index(caption))
        except (csv.Error, UnicodeError) as error:
            raise UserError(f"{path}: {error}; expected UTF-8 text with quotes around fields that hold them") from error


def row_pair(row: list[str], names: list[str], name: str, folder: Path, image: int, caption: int) -> Pair:
    """Make a pair of a row of cells; one that has more or fewer than the header is at fault."""
    if len(row) != len(names):
        why = f"{len(row)} cells, the header has {len(names)}; is a field with a separator not in quotes?"
        return Pair(name, row[image] if image < len(row) else "", (), why)
    return checked(name, str(folder / row[image]), lambda: captions_of(row[caption]))


def folder(folder: Path) -> Iterator[Pair]:
    """Read images with side-car captions of the same stem; what has a caption but is no image is left to `prepare`."""
    paths = of_training(files_below(folder), folder, lambda path: path)
    side_cars = {(p.parent, p.stem, p.suffix.lower()): p for p in paths if p.suffix.lower() in SIDE_CARS}
    others = []
    for path in paths:
        name, suffix = str(path.relative_to(folder)), path.suffix.lower()
        captions = [side_cars[key] for s in SIDE_CARS if (key := (path.parent, path.stem, s)) in side_cars]
        if suffix in SIDE_CARS:
            continue
        if suffix in SUFFIXES and path.is_file():
            yield checked(name, str(path), partial(side_car, captions))
        elif suffix in SUFFIXES or captions:
            why = f"no image: its name ends in none of {', '.join(SUFFIXES)}" if path.is_file() else "no regular file"
            yield checked(name, str(path), partial(refuse, why))
        else:
            others.append(name)
    if others:
        log.info("%s: %d files are neither images nor captions, for instance %s", folder, len(others), others[0])


def refuse(why: str) -> tuple[str, ...]:
    """Say why a record has no captions."""
    raise UserError(why)


def side_car(files: list[Path]) -> tuple[str, ...]:
    """Return the captions in the first of some side-cars, none where there is none."""
    return side_car_captions(files[0].suffix.lower(), files[0].read_bytes()) if files else ()


def webdataset(folder: Path) -> Iterator[Pair]:
    """Read tar shards in place, in the order of their names; members of one stem are one record."""
    shards = of_training(sorted(folder.glob("*.tar")), folder, lambda path: path)
    if not shards:
        raise UserError(f"{folder} holds no .tar shard")
    for shard in shards:
        index = tar_index(str(shard))
        records: dict[str, dict[str, str]] = {}
        for member in index.members:
            if not is_of_the_system(member):
                stem, _, suffix = member.rpartition(".") if "." in member.rpartition("/")[2] else (member, "", "")
                records.setdefault(stem, {})["." + suffix.lower()] = member
        for stem, files in records.items():
            if len(files) > 1 or ".txt" in files or set(files) & set(SUFFIXES):  # else an index or a statistic
                yield shard_pair(shard, stem, files, index)


def shard_pair(shard: Path, stem: str, files: dict[str, str], index: TarIndex) -> Pair:
    """Make a pair of the members of one stem."""
    name, image = f"{shard.name}/{stem}", next((files[s] for s in SUFFIXES if s in files), None)
    if image is None:
        return checked(name, f"{shard}::{stem}", partial(refuse, f"no image among {', '.join(sorted(files.values()))}"))

    def captions() -> tuple[str, ...]:
        suffix = next((s for s in SIDE_CARS if s in files), None)
        return side_car_captions(suffix, index.read(files[suffix])) if suffix else ()

    return checked(name, f"{shard}::{image}", captions)


def packed_pairs(path: Path, schema: pa.Schema, batches: Callable[[str], Iterator[tuple[int, Any]]]) -> Iterator[Pair]:
    """Read the pairs of a packed file: its images are in its rows, or a column of text says where they lie.

    Args:
        path: of the file.
        schema: its columns and their types.
        batches: column -> batches (first row, values).
    """
    image = column(schema.names, IMAGE_COLUMNS, "image", path)
    caption = column(schema.names, CAPTION_COLUMNS, "caption", path)
    are_paths = pa.types.is_string(schema.field(image).type) or pa.types.is_large_string(schema.field(image).type)
    if not are_paths:
        image_field(schema.names, str(path))
    for (first, captions), (_, names) in zip(batches(caption), batches(image if are_paths else caption), strict=True):
        texts = values_of(captions)
        paths = values_of(names) if are_paths else texts
        for number, (text, name) in enumerate(zip(texts, paths, strict=True), first):
            location = str(path.parent / os.fsdecode(name or "")) if are_paths else f"{path}::{number}"
            yield checked(f"{path.name} row {number}", location, partial(captions_of, text))


def parquet(folder: Path) -> Iterator[Pair]:
    """Read Parquet files, in the order of their names: image bytes, or paths relative to the file."""
    files = [path for path in files_below(folder) if path.suffix.lower() == ".parquet"]
    if not files:
        raise UserError(f"{folder} holds no .parquet file")
    files = of_training(files, folder, lambda path: path)
    for path in files:
        groups = parquet_row_groups(path)
        yield from packed_pairs(path, pq.read_schema(path), groups.batches)


def datasets(folder: Path) -> Iterator[Pair]:
    """Read what Hugging Face datasets saved: state.json names the Arrow files; else Parquet."""
    states = [path for path in files_below(folder) if path.name == "state.json"]
    if not states:
        yield from parquet(folder)
        return
    for state in of_training(states, folder, lambda path: path):
        try:
            names = [entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{state} is no state of a saved data set: {error!r}") from error
        for name in names:
            path = state.parent / name
            rows: pa.Table = arrow_table(str(path))
            yield from packed_pairs(path, rows.schema, lambda name, rows=rows: iter([(0, rows[name])]))  # type: ignore[misc]


def has_side_cars(paths: list[Path]) -> bool:
    """Tell whether an image has a caption of its stem beside it."""
    stems = {path.with_suffix("") for path in paths if path.suffix.lower() in SIDE_CARS}
    return any(path.suffix.lower() in SUFFIXES and path.with_suffix("") in stems for path in paths)


def shape_of(folder: Path) -> str:
    """Tell which reader a folder of pairs needs, by its files.

    Raises:
        UserError: none of them.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the one that holds the pairs")
    paths = files_below(folder)
    names = [path.name.lower() for path in paths if path.is_file()]
    tops = [path.name.lower() for path in paths if path.parent == folder and path.is_file()]
    for reader, is_so in (
        ("pictures", "pictures.parquet" in tops),
        ("lcs558k", "blip_laion_cc_sbu_558k.json" in tops),
        ("table", any(n.endswith((".csv", ".tsv")) and n != "rejects.csv" for n in tops)),
        ("folder", has_side_cars(paths)),  # before Parquet: img2dataset writes its statistics as such beside the images
        ("datasets", "state.json" in names),
        ("webdataset", any(n.endswith(".tar") for n in tops)),
        ("parquet", any(n.endswith(".parquet") for n in names)),
        ("folder", any(n.endswith(SUFFIXES) for n in names)),
    ):
        if is_so:
            return reader
    shown = ", ".join(sorted(names)[:5]) or "nothing"
    raise UserError(f"{folder} holds no pairs in a form that is known ({', '.join(READERS)}); it holds {shown}")


def auto(folder: Path) -> Iterator[Pair]:
    """Read whichever form a folder has."""
    yield from READERS[shape_of(folder)](folder)


READERS: dict[str, Callable[[Path], Iterator[Pair]]] = {
    "pictures": pictures,
    "lcs558k": lcs558k,
    "table": table,
    "folder": folder,
    "webdataset": webdataset,
    "parquet": parquet,
    "datasets": datasets,
    "auto": auto,
}
