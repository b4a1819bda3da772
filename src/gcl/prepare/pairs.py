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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gcl.common.errors import UserError
from gcl.data.containers import arrow_table, image_field, parquet_row_groups, tar_index
from gcl.data.records import Pair, read_parquet

IMAGE_COLUMNS = ("filepath", "image", "image_path", "path", "file_name", "jpg", "png", "webp", "img")
CAPTION_COLUMNS = ("title", "caption", "text", "txt", "captions", "sentence")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


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
        rows = json.loads(path.read_text())
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


def captions_of(value: Any) -> tuple[str, ...]:
    """Return the captions in a field: a text, or a list of them."""
    if isinstance(value, list):
        return tuple(str(v) for v in value if v is not None)
    return (str(value),) if value is not None else ()


def only_file(folder: Path, suffixes: tuple[str, ...], preferred: str) -> Path:
    """Return `preferred` with one of the suffixes, or the only file that has one."""
    found = sorted(p for p in folder.iterdir() if p.suffix in suffixes and p.name != "rejects.csv")
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
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            header = file.readline()
            file.seek(0)
            rows = csv.DictReader(file, delimiter=max(",\t;", key=header.count), strict=True)
            found = list(rows.fieldnames or [])
            image, caption = (
                column(found, IMAGE_COLUMNS, "image", path),
                column(found, CAPTION_COLUMNS, "caption", path),
            )
            for number, row in enumerate(rows, 1):
                yield Pair(f"line {number}", str(folder / (row[image] or "")), captions_of(row[caption]))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path}: {error}; expected UTF-8 text with quotes around fields that hold them") from error


def json_caption(data: bytes, where: str) -> tuple[str, ...]:
    """Return the caption in a JSON side-car."""
    try:
        about = json.loads(data)
    except ValueError as error:
        raise UserError(f"{where} is no JSON: {error}") from error
    name = next((n for n in CAPTION_COLUMNS if n in about), None)
    return captions_of(about[name]) if name else ()


def folder(folder: Path) -> Iterator[Pair]:
    """Read images with side-car captions; an image without one is left for `prepare` to list."""
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
        text, about = path.with_suffix(".txt"), path.with_suffix(".json")
        captions: tuple[str, ...] = ()
        if text.exists():
            captions = (text.read_text(errors="replace"),)
        elif about.exists():
            captions = json_caption(about.read_bytes(), str(about))
        yield Pair(str(path.relative_to(folder)), str(path), captions)


def webdataset(folder: Path) -> Iterator[Pair]:
    """Read tar shards in place, in the order of their names; members of one stem are one record."""
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        raise UserError(f"{folder} holds no .tar shard")
    for shard in shards:
        records: dict[str, dict[str, str]] = {}
        for name in tar_index(str(shard)).members:
            stem, _, suffix = name.rpartition("/")[2].partition(".")
            records.setdefault(f"{name.rpartition('/')[0]}/{stem}".lstrip("/"), {})["." + suffix.lower()] = name
        for stem, files in records.items():
            image = next((files[s] for s in SUFFIXES if s in files), None)
            if image is None and ".txt" not in files:
                continue  # neither side of a pair: an index, a statistic
            captions: tuple[str, ...] = ()
            if ".txt" in files:
                captions = (tar_index(str(shard)).read(files[".txt"]).decode(errors="replace"),)
            elif ".json" in files:
                captions = json_caption(tar_index(str(shard)).read(files[".json"]), f"{shard}::{files['.json']}")
            yield Pair(f"{shard.name}/{stem}", f"{shard}::{image or stem + ' (no image)'}", captions)


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
        for number, (text, name) in enumerate(zip(captions.to_pylist(), names.to_pylist(), strict=True), first):
            location = str(path.parent / (name or "")) if are_paths else f"{path}::{number}"
            yield Pair(f"{path.name} row {number}", location, captions_of(text))


def parquet(folder: Path) -> Iterator[Pair]:
    """Read Parquet files, in the order of their names: image bytes, or paths relative to the file."""
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise UserError(f"{folder} holds no .parquet file")
    for path in files:
        groups = parquet_row_groups(path)
        yield from packed_pairs(path, pq.read_schema(path), groups.batches)


def datasets(folder: Path) -> Iterator[Pair]:
    """Read what Hugging Face datasets saved: state.json names the Arrow files; else Parquet."""
    states = sorted(folder.rglob("state.json"))
    if not states:
        yield from parquet(folder)
        return
    for state in states:
        try:
            names = [entry["filename"] for entry in json.loads(state.read_text())["_data_files"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{state} is no state of a saved data set: {error!r}") from error
        for name in names:
            path = state.parent / name
            rows: pa.Table = arrow_table(str(path))
            yield from packed_pairs(path, rows.schema, lambda name, rows=rows: iter([(0, rows[name])]))  # type: ignore[misc]


def shape_of(folder: Path) -> str:
    """Tell which reader a folder of pairs needs, by its files.

    Raises:
        UserError: none of them.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the one that holds the pairs")
    names = [p.name for p in folder.rglob("*") if p.is_file()]
    tops = [p.name for p in folder.iterdir() if p.is_file()]
    for reader, is_so in (
        ("pictures", "pictures.parquet" in tops),
        ("lcs558k", "blip_laion_cc_sbu_558k.json" in tops),
        ("table", any(n.endswith((".csv", ".tsv")) and n != "rejects.csv" for n in tops)),
        ("datasets", "state.json" in names),
        ("webdataset", any(n.endswith(".tar") for n in tops)),
        ("parquet", any(n.endswith(".parquet") for n in names)),
        ("folder", any(n.lower().endswith(SUFFIXES) for n in names)),
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
