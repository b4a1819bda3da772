"""What lies in a folder or a table, as items of three modalities: images, texts, and images with texts.

A folder: an image is an item, with its side-car (.txt or .json of its stem) an image with a text; a text file that
belongs to no image is a text. Any form of training pairs (prepare/pairs/) is read as such: a record with both is an
image with a text, one without caption an image.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from gcl.common.errors import UserError
from gcl.data.images import read_bytes
from gcl.data.records import Pair
from gcl.prepare.captions import decode_text, side_car_captions
from gcl.prepare.folders import files_below
from gcl.prepare.pairs import SIDE_CARS, SUFFIXES, at_fault, reader_of_pairs
from gcl.prepare.pairs.auto import shape_of
from gcl.prepare.pairs.image_folder import lines_of
from gcl.prepare.pairs.parquet import file_pairs
from gcl.prepare.pairs.table import rows_of

TEXTS = (".txt", ".md")
MAX_TEXT = 100_000  # characters that are kept of a text; a model reads far fewer
FILES: dict[str, Callable[[Path], Iterator[Pair]]] = {
    ".csv": rows_of,
    ".tsv": rows_of,
    ".jsonl": lambda path: lines_of(path, ""),
    ".parquet": file_pairs,
}


class Entry(NamedTuple):
    """An item as it lies there, before it is read."""

    item_id: str  # unique: the path below the folder, or the record's name
    image: str | None  # location
    text: str | None
    stamp: str  # of the files it is made of: as long as it is the same, so is the item
    fault: str = ""

    @property
    def modality(self) -> str:
        """image, text or image_text."""
        if self.image is None:
            return "text"
        return "image" if self.text is None else "image_text"

    def content(self) -> str:
        """Return the hash of what is embedded.

        Raises:
            UserError: the image can't be read.
        """
        data = b"" if self.image is None else read_bytes(self.image)
        return hashlib.sha256(b"\0".join([data, (self.text or "").encode()])).hexdigest()


def entries_of(source: Path) -> Iterator[Entry]:
    """List the items of a folder, or of a .csv, .tsv, .jsonl or .parquet file; ids are made unique.

    Raises:
        UserError: no such folder or file, or one in no form that is known.
    """
    if not source.exists():
        raise UserError(f"{source} is not there; give a folder, or a table of images and texts")
    if source.is_dir():
        entries = folder_entries(source)
    elif read := FILES.get(source.suffix.lower()):
        entries = pair_entries(read(source), source.parent)
    else:
        raise UserError(f"{source} is neither a folder nor a file of {', '.join(FILES)}")
    seen: dict[str, int] = {}
    for entry in entries:
        number = seen[entry.item_id] = seen.get(entry.item_id, 0) + 1
        yield entry if number == 1 else entry._replace(item_id=f"{entry.item_id} ({number})")


def folder_entries(folder: Path) -> Iterator[Entry]:
    """List a folder: plain files, or a form of pairs that packs or lists them."""
    paths = files_below(folder)
    names = {path.suffix.lower() for path in paths}
    form = "folder" if names <= {*SUFFIXES, *TEXTS, *SIDE_CARS, ""} else known_form(folder)
    if form == "folder":
        return plain_entries(folder, paths)
    return pair_entries(reader_of_pairs(form).read(folder), folder)


def known_form(folder: Path) -> str:
    """Return the form of a folder; one that is none of pairs is searched for plain files."""
    try:
        return shape_of(folder)
    except UserError:
        return "folder"


def plain_entries(folder: Path, paths: list[Path]) -> Iterator[Entry]:
    """List images, with their side-cars, and texts."""
    regular = [path for path in paths if path.is_file()]
    stems = {path.with_suffix("") for path in regular if path.suffix.lower() in SUFFIXES}
    side_cars = {p.with_suffix(""): p for p in reversed(regular) if p.suffix.lower() in SIDE_CARS}
    for path in regular:
        name, suffix, stem = str(path.relative_to(folder)), path.suffix.lower(), path.with_suffix("")
        if suffix in SUFFIXES:
            yield read_entry(name, path, side_cars.get(stem))
        elif suffix in TEXTS and stem not in stems:
            yield read_entry(name, None, path)
    for path in paths:
        if path.suffix.lower() in SUFFIXES and not path.is_file():
            bad = at_fault(str(path.relative_to(folder)), str(path), "no regular file")
            yield Entry(bad.name, bad.image, None, "", bad.fault)


def read_entry(name: str, image: Path | None, text: Path | None) -> Entry:
    """Make the item of an image, of a text file, or of both; what can't be read becomes its fault."""
    try:
        name.encode("utf-8")
        stamp = "|".join(stamp_of(path) for path in (image, text) if path is not None)
        captions = side_car_captions(text.suffix.lower(), text.read_bytes()) if text and image else ()
        body = " ".join(captions).strip() if image else decode_text((text or Path()).read_bytes()).strip()
        if not image and not body:
            raise UserError("holds no text")
        return Entry(name, str(image) if image else None, body[:MAX_TEXT] or None, stamp)
    except (OSError, ValueError) as error:
        bad = at_fault(name, "", str(error))
        return Entry(bad.name, None, None, "", bad.fault)


def stamp_of(path: Path) -> str:
    """Return size and time of a file."""
    state = path.stat()
    return f"{state.st_size}:{state.st_mtime_ns}"


def pair_entries(pairs: Iterator[Pair], folder: Path) -> Iterator[Entry]:
    """Turn records of pairs into items, named by their image where it is a file of its own."""
    for pair in pairs:
        path = pair.image.partition("::")[0]
        is_text = bool(pair.texts) and (not pair.image or Path(path) == folder)
        if pair.fault or not (pair.texts or pair.image):
            yield Entry(pair.name, None, None, "", pair.fault or "neither image nor text")
            continue
        text = (pair.texts[0].strip() if pair.texts else "") or None
        has_own = not is_text and "::" not in pair.image
        name = os.path.relpath(path, folder) if has_own else pair.name
        try:
            stamp = "" if is_text else stamp_of(Path(path))
        except OSError as error:
            yield Entry(name, None, None, "", f"{path}: {error.strerror}")
            continue
        told = hashlib.sha256((text or "").encode()).hexdigest()[:16]
        yield Entry(name, None if is_text else pair.image, text, f"{stamp}|{told}")
