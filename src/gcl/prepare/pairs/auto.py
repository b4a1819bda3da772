"""Whichever form the files of a folder look like."""

from collections.abc import Iterator
from pathlib import Path

from gcl.common.errors import UserError
from gcl.data.records import Pair
from gcl.prepare.folders import files_below
from gcl.prepare.pairs import SUFFIXES, Listing, PairReader, reader_of_pairs

# The first that fits. `folder` before Parquet: img2dataset writes its statistics as such beside the images.
ORDER = ("pictures", "lcs558k", "coco", "image_folder", "table", "folder", "datasets", "webdataset", "parquet")


def shape_of(folder: Path) -> str:
    """Tell which reader a folder of pairs needs, by its files.

    Raises:
        UserError: none of them.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the one that holds the pairs")
    paths = files_below(folder)
    listing = Listing(folder, [path for path in paths if path.is_file()])
    for name in ORDER:
        if reader_of_pairs(name).fits(listing):
            return name
    if has_images(listing):
        return "folder"
    shown = ", ".join(sorted(listing.names)[:5]) or "nothing"
    raise UserError(f"{folder} holds no pairs in a form that is known ({', '.join(ORDER)}); it holds {shown}")


def has_images(listing: Listing) -> bool:
    """Tell whether there are images at all."""
    return any(name.endswith(SUFFIXES) for name in listing.names)


def auto(folder: Path) -> Iterator[Pair]:
    """Read whichever form a folder has."""
    yield from reader_of_pairs(shape_of(folder)).read(folder)


READER = PairReader(auto, lambda listing: False)
