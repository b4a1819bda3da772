"""Readers of training pairs: from a data set's files to (name, image, captions). A form is a module here with a READER.

A reader yields a Pair per record and leaves what is wrong with single records to `prepare`, which lists it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from gcl.common.errors import UserError
from gcl.common.names import provided, providers
from gcl.data.annotations import well_formed
from gcl.data.records import Pair

IMAGE_COLUMNS = ("filepath", "image", "image_path", "path", "file_name", "jpg", "png", "webp", "img")
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
SIDE_CARS = (".txt", ".json")


class Listing(NamedTuple):
    """What lies in a folder of pairs."""

    folder: Path
    paths: list[Path]  # of regular files, at any depth

    @property
    def names(self) -> list[str]:
        """Return all names, in lower case."""
        return [path.name.lower() for path in self.paths]

    @property
    def tops(self) -> list[str]:
        """Return the names of those at the top, in lower case."""
        return [path.name.lower() for path in self.paths if path.parent == self.folder]


class PairReader(NamedTuple):
    """How a form of pairs is read, and how it is known by its files."""

    read: Callable[[Path], Iterator[Pair]]
    fits: Callable[[Listing], bool]


def forms() -> list[str]:
    """Return the names of all forms."""
    return list(providers("gcl.prepare.pairs", "READER"))


def reader_of_pairs(name: str) -> PairReader:
    """Return a reader by the name of its module.

    Raises:
        UserError: there is no such reader; says which is close.
    """
    reader: PairReader = provided("gcl.prepare.pairs", "READER", name, "reader of pairs")
    return reader


def column(names: list[str], wanted: tuple[str, ...], what: str, path: Path) -> str:
    """Return the column that holds `what`, by its usual names.

    Raises:
        UserError: there is none; says what is there and what would do.
    """
    for name in wanted:
        if name in names:
            return name
    raise UserError(
        f"{path} has no column for the {what}: found {', '.join(names) or 'nothing'}; "
        f"name it one of {', '.join(wanted)}"
    )


def checked(name: str, image: str, captions: Callable[[], tuple[str, ...]]) -> Pair:
    """Make a pair; what is wrong with its names or captions becomes its fault, so that `prepare` lists it."""
    try:
        return Pair(well_formed(name, "name"), well_formed(image, "file name"), captions())
    except (UserError, OSError) as error:
        return at_fault(name, image, str(error))


def at_fault(name: str, image: str, why: str) -> Pair:
    """Make a pair that can't be used, in words that UTF-8 can hold."""
    name, image, why = (text.encode("utf-8", "backslashreplace").decode() for text in (name, image, why))
    return Pair(name, image, (), why)
