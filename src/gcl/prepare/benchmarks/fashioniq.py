"""FashionIQ (arXiv 1905.12794): a garment and two captions, and the garment that they describe; three categories.

The gallery is the split file's images, or only those that are a reference or a target. The reference is left out of the
ranking unless mask_reference is off: code bases differ in both.
"""

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.rows import STRICT, parse
from gcl.config.benchmarks import Benchmark
from gcl.data.annotations import clean_edit, image_at, read_json, read_records, text_of, well_formed
from gcl.data.items import Contents, Excluded, Item, Qrel, Task
from gcl.prepare.benchmarks import Reader


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """The protocol of FashionIQ."""

    gallery: Literal["split", "val"] = "split"  # the split file's images, or only references and targets
    mask_reference: bool = True


def read_category(
    folder: Path, images: Path, split: str, name: str, options: Options
) -> tuple[list[Item], list[Item], list[Qrel], list[Excluded]]:
    """Return queries, pool, qrels and exclusions of one category."""
    path = folder / f"captions/cap.{name}.{split}.json"
    queries, qrels, excluded = [], [], []
    used: dict[str, None] = {}
    for number, (place, record) in enumerate(read_records(path)):
        query = f"{name}:{number}"
        reference, target = text_of(record, "candidate", place), text_of(record, "target", place)
        captions = record.get("captions")
        if not isinstance(captions, list) or len(captions) != 2 or not all(isinstance(c, str) for c in captions):
            raise UserError(f"{place}: 'captions' is {captions!r}, expected two strings")
        text = clean_edit(" and ".join(well_formed(caption, f"{place}: 'captions'") for caption in captions))
        queries.append(Item(query, text, (image_at(images, f"{reference}.jpg", place),)))
        qrels.append(Qrel(name, query, target))
        if options.mask_reference:
            excluded.append(Excluded(name, query, [reference]))
        used |= {reference: None, target: None}
    listing = folder / f"image_splits/split.{name}.{split}.json"
    names = list(used) if options.gallery == "val" else read_json(listing)
    if not isinstance(names, list) or not all(isinstance(entry, str) for entry in names):
        raise UserError(f"{listing}: expected a list of names of images")
    pool = [Item(name, None, (image_at(images, f"{name}.jpg", str(path)),)) for name in names]
    return queries, pool, qrels, excluded


def read_fashioniq(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read the categories that the row lists as tasks.

    Raises:
        UserError: a record in another form, named by its number.
    """
    options = parse(Options, row.options, "options")
    tables: dict[str, list[Item]] = {}
    tasks, all_qrels, all_excluded = [], [], []
    for name in row.tasks:
        queries, pool, qrels, excluded = read_category(folder, images, row.split, name, options)
        tables |= {f"query_{name}": queries, f"pool_{name}": pool}
        tasks.append(Task(name, "image_text", "image", f"query_{name}", {options.gallery: [f"pool_{name}"]}))
        all_qrels += qrels
        all_excluded += excluded
    return Contents(tables, tasks, all_qrels, [], all_excluded)


READER = Reader(read_fashioniq, Options)
