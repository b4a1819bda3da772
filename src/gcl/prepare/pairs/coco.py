"""Captions in COCO's form: captions*.json with `images` (id, file_name) and `annotations` (image_id, caption).

The images lie beside it, in the folder or in the zip file of the split that its name ends in, at the top or below
`images/`; a zip file is read in place. An image with several captions is one pair: the first is the full caption.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gcl.common.errors import UserError
from gcl.data.containers import zip_names
from gcl.data.records import Pair
from gcl.prepare.captions import captions_of, decode_text
from gcl.prepare.folders import files_below, of_training
from gcl.prepare.pairs import Listing, PairReader, at_fault, checked

SEARCHED = 100  # images by which their place is found; some may be missing


def coco(folder: Path) -> Iterator[Pair]:
    """Read the captions of the training split: a pair for each image, and each annotation of an unknown one by its id.

    Raises:
        UserError: no such file, or one in another form.
    """
    paths = [path for path in files_below(folder) if path.is_file() and is_captions(path)]
    if not paths:
        raise UserError(f"{folder} holds no captions*.json")
    for path in of_training(paths, folder, lambda path: path.with_name(split_of(path))):
        images, annotations = read_lists(path)
        captions: dict[Any, list[Any]] = {key: [] for key in images}
        for annotation in annotations:
            key = annotation.get("image_id") if isinstance(annotation, dict) else None
            if isinstance(key, int | str) and key in captions:
                captions[key].append(annotation.get("caption"))
            else:
                yield at_fault(f"{path.name} annotation {str(annotation)[:60]}", "", "its image_id is no id of images")
        place = place_of(folder, path, [*images.values()][:SEARCHED])
        for key, name in images.items():
            texts = captions[key]
            yield checked(f"{path.name} image {key}", f"{place}{name}", lambda texts=texts: captions_of(texts))  # type: ignore[misc]


def is_captions(path: Path) -> bool:
    """Tell whether a file is one of captions by its name."""
    return path.name.lower().startswith("captions") and path.suffix.lower() == ".json"


def split_of(path: Path) -> str:
    """Return the split of captions_<split>.json; all of the name where there is none."""
    return path.stem.partition("_")[2] or path.stem


def read_lists(path: Path) -> tuple[dict[Any, str], list[Any]]:
    """Return file names by image id, and the annotations.

    Raises:
        UserError: no JSON, or another form; names the record.
    """
    try:
        content = json.loads(decode_text(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"can't read {path} as JSON: {error}") from error
    records, annotations = (
        content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations")
    )
    if not isinstance(records, list) or not isinstance(annotations, list):
        raise UserError(f"{path}: expected an object with the lists images and annotations, as COCO has it")
    images: dict[Any, str] = {}
    for number, image in enumerate(records):
        key, name = (image.get("id"), image.get("file_name")) if isinstance(image, dict) else (None, None)
        if not isinstance(key, int | str) or not isinstance(name, str) or not name or key in images:
            raise UserError(f"{path}, image {number}: {str(image)[:80]}, expected an id of its own and a file_name")
        images[key] = name
    return images, annotations


def place_of(folder: Path, path: Path, names: list[str]) -> str:
    """Return what stands before a file_name in a location: where some of the images lie."""
    split = split_of(path)
    folders = [path.parent, folder / split, folder / "images" / split, folder / "images", folder]
    for place in folders:
        if any(os.path.lexists(place / name) for name in names):
            return f"{place}{os.sep}"
    for archive in (place.with_name(f"{place.name}.zip") for place in folders[1:4]):
        members = zip_names(str(archive)) if archive.is_file() else frozenset()
        for inner in (f"{split}/", ""):
            if any(f"{inner}{name}" in members for name in names):
                return f"{archive}::{inner}"
    return f"{folder / split}{os.sep}"


def fits(listing: Listing) -> bool:
    """Tell whether captions in this form lie at the top or in annotations/."""
    places = (listing.folder, listing.folder / "annotations")
    return any(path.parent in places and is_captions(path) and has_lists(path) for path in listing.paths)


def has_lists(path: Path) -> bool:
    """Tell whether a file begins as an object with COCO's lists, without reading all of it."""
    with path.open("rb") as file:
        start = file.read(4096)
    return any(f'"{key}"'.encode() in start for key in ("images", "annotations", "info", "licenses"))


READER = PairReader(coco, fits)
