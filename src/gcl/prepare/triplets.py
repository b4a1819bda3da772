"""Turn public triplets (an image and a text, and the image that is meant) into the canonical tables.

In:  data/<data set>/ with a file of annotations, and images by the names that it has.
Out: images, texts and triplets.parquet (data/triplets.py); what can't be used is listed in rejects.csv.

megapairs  MegaPairs.jsonl: q_img, q_text (several, each a triplet), t_img, hns (images that are not meant);
           arXiv 2412.14475
vista_s2   Image_Edit_307K_filter.jsonl and T2IT.jsonl, one or both: q_type, c_type, query, positive, hard_negative; an
           image with an edit to an image, and a text to an image with its text; arXiv 2406.04292
records    triplets.jsonl: query_image, query_text, target_image, target_text, negatives; the last two may be absent.
           MagicLens describes its (unreleased) triplets by the first three; arXiv 2403.19651
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, unfinished
from gcl.common.progress import progress
from gcl.data.annotations import locate, read_jsonl, text_of, text_or_none, value_of
from gcl.data.records import write_rejects
from gcl.data.triplets import Triplet, write_triplets

log = logging.getLogger(__name__)


class Record(NamedTuple):
    """A line of annotations, and where the images it names are."""

    folder: Path
    place: str
    values: dict[str, Any]

    def image(self, name: Any, key: str) -> str:
        """Return the location of an image.

        Raises:
            UserError: it has no name, or one that leaves the folder.
        """
        return locate(self.folder, text_of({key: name}, key, self.place), self.place)

    def images(self, key: str) -> tuple[str, ...]:
        """Return the locations of a list of images, none where the key is absent."""
        names = value_of(self.values, key, list, self.place) if self.values.get(key) is not None else []
        return tuple(self.image(name, key) for name in names)


def of_megapairs(record: Record) -> Iterator[Triplet]:
    """Yield a triplet for every text of a record."""
    values, place = record.values, record.place
    query, target = (record.image(values.get(key), key) for key in ("q_img", "t_img"))
    if not (texts := value_of(values, "q_text", list, place)):
        raise UserError(f"{place}: 'q_text' is empty, expected a text or several")
    for text in texts:
        yield Triplet(place, query, text_of({"q_text": text}, "q_text", place), target, None, record.images("hns"))


def of_vista_s2(record: Record) -> Iterator[Triplet]:
    """Yield the triplet of a record: an edit of an image, or an image with its text for a text."""
    values, place = record.values, record.place
    kind = text_of(values, "q_type", place), text_of(values, "c_type", place)
    if kind == ("mm_it", "image"):
        image, text = two(values, "query", place)
        target, words = values.get("positive"), None
        query = record.image(image, "query")
        negatives = record.images("hard_negative")
    elif kind == ("text", "mm_it"):
        query, text = None, values.get("query")
        target, words = two(values, "positive", place)
        words = text_of({"positive": words}, "positive", place)
        negatives = ()  # are images with texts of their own; those of other queries serve
    else:
        raise UserError(f"{place}: q_type and c_type are {kind}, expected mm_it and image, or text and mm_it")
    text = text_of({"query": text}, "query", place)
    yield Triplet(place, query, text, record.image(target, "positive"), words, negatives)


def two(values: dict[str, Any], key: str, place: str) -> list[Any]:
    """Return an image and its text."""
    pair = value_of(values, key, list, place)
    if len(pair) != 2:
        raise UserError(f"{place}: '{key}' has {len(pair)} parts, expected an image and a text")
    return pair


def of_records(record: Record) -> Iterator[Triplet]:
    """Yield the triplet of a record."""
    values, place = record.values, record.place
    query, target = (record.image(values.get(key), key) for key in ("query_image", "target_image"))
    texts = text_of(values, "query_text", place), text_or_none(values, "target_text", place)
    yield Triplet(place, query, texts[0], target, texts[1], record.images("negatives"))


Form = tuple[tuple[str, ...], Callable[[Record], Iterator[Triplet]]]  # files, and what a line of them becomes
FORMS: dict[str, Form] = {
    "megapairs": (("MegaPairs.jsonl",), of_megapairs),
    "vista_s2": (("Image_Edit_307K_filter.jsonl", "T2IT.jsonl"), of_vista_s2),
    "records": (("triplets.jsonl",), of_records),
}


def read(data: Path, form: str) -> Iterator[Triplet]:
    """Yield the triplets of a folder; what is wrong with one becomes its fault.

    Raises:
        UserError: none of the form's files is there, or one is no JSON Lines.
    """
    names, read_record = FORMS[form]
    if not (paths := [data / name for name in names if (data / name).exists()]):
        raise UserError(f"{data} has no {' or '.join(names)}, where triplets of form {form} are; is it the folder?")
    for path in paths:
        for place, values in read_jsonl(path):
            try:
                yield from read_record(Record(data, place, values))
            except UserError as error:
                yield Triplet(place, None, None, None, None, (), str(error))


def usable(
    triplets: list[Triplet], workers: int, work: Path
) -> tuple[list[Triplet], dict[str, str], list[tuple[str, str, str]]]:
    """Leave out triplets that are at fault or whose images can't be read.

    Returns:
        Those that stay, the sha256 of every image by its location, and the rejects: record, image, reason.
    """
    from gcl.data.images import examined  # it decodes images; the config asks this module for its forms alone

    locations = list(dict.fromkeys(image for triplet in triplets for image in triplet.images))
    examined_images = progress(examined(locations, workers, work), "check images", "image", len(locations))
    images = dict(zip(locations, examined_images, strict=True))
    kept, rejects = [], []
    for triplet in triplets:
        bad = next((image for image in triplet.images if images[image].fault), "")
        if fault := triplet.fault or (images[bad].fault if bad else ""):
            rejects.append((triplet.name, bad, fault))
        else:
            kept.append(triplet)
    return kept, {location: image.sha256 for location, image in images.items() if not image.fault}, rejects


def triplets(data: Path, form: str, reject_limit: float, workers: int, output: Path) -> dict[str, int]:
    """Write the triplets of a data set; return how many there are, and how many were left out.

    Raises:
        UserError: there is none, none is usable, or too many are not.
    """
    if not (every := list(read(data, form))):
        raise UserError(f"{data} holds no triplet: {' and '.join(FORMS[form][0])} have no lines")
    with unfinished(output) as work:
        kept, digests, rejects = usable(every, max(1, workers), work)
        if not kept or len(rejects) > reject_limit * len(every):
            write_rejects(listing := output.with_name(f"{output.name}.rejects.csv"), rejects)
            raise UserError(
                f"{data}: {len(rejects)} of {len(every)} triplets are unusable, more than reject_limit "
                f"{reject_limit:.1%} allows, all are listed in {listing}; first: {': '.join(filter(None, rejects[0]))}"
            )
        if rejects:
            log.warning("%d triplets unusable, of %d: listed in rejects.csv", len(rejects), len(every))
        with atomic_path(output) as folder:
            folder.mkdir()
            write_rejects(folder / "rejects.csv", rejects)
            count = write_triplets(folder, kept, digests)
    return {"triplets": count, "unusable": len(rejects)}


def main() -> None:
    """Run from the command line."""
    options = parser("triplets", __doc__, "--data data/megapairs --form megapairs --output results/triplets/megapairs")
    options.add_argument("--data", required=True, type=Path, metavar="FOLDER", help="annotations and images")
    options.add_argument("--form", required=True, choices=list(FORMS), help="how they are written")
    options.add_argument("--reject-limit", type=float, default=0.01, help="largest share of unusable triplets (0.01)")
    options.add_argument("--workers", type=int, default=1, metavar="N", help="threads that read images (1)")
    options.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder to write")
    run(options, triplets)


if __name__ == "__main__":
    main()
