"""One .csv or .tsv: a column of image paths, relative to it, and one of captions."""

import csv
from collections.abc import Iterator
from pathlib import Path

from gcl.common.errors import UserError
from gcl.data.records import Pair
from gcl.prepare.captions import CAPTION_COLUMNS, captions_of, encoding_of
from gcl.prepare.pairs import IMAGE_COLUMNS, Listing, PairReader, at_fault, checked, column

SUFFIXES = (".csv", ".tsv")


def only_file(folder: Path, suffixes: tuple[str, ...], preferred: str) -> Path:
    """Return `preferred` with one of the suffixes, or the only file that has one."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name != "rejects.csv")
    named = [p for p in files if p.stem == preferred]
    if len(named or files) == 1:
        return (named or files)[0]
    what = f"{len(files)} files" if files else "no file"
    raise UserError(
        f"{folder} holds {what} with suffix {' or '.join(suffixes)}; name the one to read {preferred}{suffixes[0]}"
    )


def table(folder: Path) -> Iterator[Pair]:
    """Read pairs.csv or .tsv, or the only such file."""
    yield from rows_of(only_file(folder, SUFFIXES, "pairs"))


def rows_of(path: Path, prefix: str = "") -> Iterator[Pair]:
    """Read a table; the separator is what the header has most of: comma, tab or semicolon."""
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
                name = f"{prefix}line {rows.line_num}"
                yield row_pair(row, names, name, path.parent, names.index(image), names.index(caption))
        except (csv.Error, UnicodeError) as error:
            raise UserError(f"{path}: {error}; expected UTF-8 text with quotes around fields that hold them") from error


def row_pair(row: list[str], names: list[str], name: str, folder: Path, image: int, caption: int) -> Pair:
    """Make a pair of a row of cells; one that has more or fewer than the header is at fault."""
    if len(row) != len(names):
        why = f"{len(row)} cells, the header has {len(names)}; is a field with a separator not in quotes?"
        return at_fault(name, row[image] if image < len(row) else "", why)
    return checked(name, str(folder / row[image]), lambda: captions_of(row[caption]))


def fits(listing: Listing) -> bool:
    """Tell whether there is a table at the top."""
    return any(name.endswith(SUFFIXES) and name != "rejects.csv" for name in listing.tops)


READER = PairReader(table, fits)
