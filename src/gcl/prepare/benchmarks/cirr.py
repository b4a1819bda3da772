"""CIRR (arXiv 2108.04024): an image and a change, and the image that has it.

The reference image is left out of the ranking. The pool `subset` has the five other members of the query's own
set of six. The labels of test1 are hidden.
"""

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.rows import STRICT, parse
from gcl.config.benchmarks import Benchmark
from gcl.data.annotations import (
    IMAGE_SUFFIXES,
    clean_edit,
    image_at,
    read_json,
    read_records,
    text_of,
    text_or_none,
    value_of,
)
from gcl.data.items import Contents, Excluded, Item, Listed, Qrel, Task
from gcl.prepare.benchmarks import Reader, Upload


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """The protocol of CIRR."""

    gallery: Literal["split", "folder"] = "split"  # the split file's images, or every image of the split's folder


def gallery(folder: Path, images: Path, split: str, options: Options) -> list[Item]:
    """Return the images that are searched."""
    path = folder / f"image_splits/split.rc2.{split}.json"
    names = read_json(path)
    if not isinstance(names, dict) or not names or not all(isinstance(inner, str) for inner in names.values()):
        raise UserError(f"{path}: expected an object of names and files")
    if options.gallery == "split":
        return [
            Item(name, None, (image_at(images, inner.removeprefix("./"), f"{path}: {name}"),))
            for name, inner in names.items()
        ]
    parent = images / next(iter(names.values())).removeprefix("./").split("/")[0]
    files = sorted(p for p in parent.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    return [Item(file.stem, None, (str(file),)) for file in files]


def read_cirr(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read one split.

    Raises:
        UserError: a record in another form, named by its number.
    """
    options = parse(Options, row.options, "options")
    path = folder / f"captions/cap.rc2.{row.split}.json"
    pool = gallery(folder, images, row.split, options)
    location = {item.item_id: item.images for item in pool}
    queries, qrels, lists, excluded = [], [], [], []
    for place, record in read_records(path):
        query, reference = str(value_of(record, "pairid", int, place)), text_of(record, "reference", place)
        if reference not in location:
            raise UserError(f"{place}: reference '{reference}' is not in the gallery")
        queries.append(Item(query, clean_edit(text_of(record, "caption", place)), location[reference]))
        excluded.append(Excluded("cirr", query, [reference]))
        target = text_or_none(record, "target_hard", place)
        members = value_of(value_of(record, "img_set", dict, place), "members", list, f"{place}, img_set")
        members = [name for name in members if name not in (reference, target)]
        if target is not None:
            qrels.append(Qrel("cirr", query, target))
        lists.append(Listed("cirr", "subset", query, [*members, *([target] if target else [])]))
    task = Task("cirr", "image_text", "image", "query", {options.gallery: ["pool"], "subset": ["pool"]}, ("subset",))
    return Contents({"query": queries, "pool": pool}, [task], qrels, lists, excluded)


def upload(task: str, pool: str, ranked: dict[str, list[str]]) -> Upload:
    """Return name and content of one of CIRR's two files; source: the data set's page on its test server."""
    metric, depth = ("recall_subset", 3) if pool == "subset" else ("recall", 50)
    return metric, {"version": "rc2", "metric": metric} | {query: names[:depth] for query, names in ranked.items()}


READER = Reader(read_cirr, Options, upload, 50)
