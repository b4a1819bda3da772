"""Images at any depth, each with a .txt, or a .json with a caption, of the same stem."""

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from gcl.data.records import Pair
from gcl.prepare.captions import side_car_captions
from gcl.prepare.folders import files_below, of_training
from gcl.prepare.pairs import SIDE_CARS, SUFFIXES, Listing, PairReader, at_fault, checked

log = logging.getLogger(__name__)


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
            yield at_fault(name, str(path), why)
        else:
            others.append(name)
    if others:
        log.info("%s: %d files are neither images nor captions, for instance %s", folder, len(others), others[0])


def side_car(files: list[Path]) -> tuple[str, ...]:
    """Return the captions in the first of some side-cars, none where there is none."""
    return side_car_captions(files[0].suffix.lower(), files[0].read_bytes()) if files else ()


def fits(listing: Listing) -> bool:
    """Tell whether an image has a caption of its stem beside it."""
    stems = {path.with_suffix("") for path in listing.paths if path.suffix.lower() in SIDE_CARS}
    return any(path.suffix.lower() in SUFFIXES and path.with_suffix("") in stems for path in listing.paths)


READER = PairReader(folder, fits)
