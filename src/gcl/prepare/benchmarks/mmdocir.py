"""MMDocIR: the pages, and the figures, tables and paragraphs on them, that answer a question about a long document.

    MMDocIR_annotations.jsonl    a document a line: doc_name, page_indices, layout_indices (rows from and to), questions
    MMDocIR_pages.parquet        doc_name, image_binary, ocr_text, vlm_text
    MMDocIR_layouts.parquet      doc_name, page_id, type, bbox, image_binary, text, ocr_text, vlm_text

A query ranks what its own document has, as in the authors' evaluation (arXiv 2501.08828); a second pool, all, holds
every document's, as mteb has it. A page is relevant if it is labelled. A layout is if it lies on the page of a label
and they share half of the smaller one's area: the authors weigh areas, which no ranking measure does.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.rows import STRICT, parse
from gcl.config.benchmarks import Benchmark
from gcl.data.annotations import read_jsonl, read_rows, text_of, text_or_none, value_of
from gcl.data.items import Contents, Item, Listed, Qrel, Task
from gcl.prepare.benchmarks import Reader

SHARED = 0.5  # of the smaller area
WITH_TEXTS = ("table", "image", "figure")  # types of layouts whose text is read off them


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """What is shown of a page or a layout: its picture, what is read off it, or both."""

    show: Literal["image", "ocr_text", "vlm_text", "image_ocr_text", "image_vlm_text"] = "image"


class Part(NamedTuple):
    """A page or a layout with where it is from."""

    item: Item
    document: str
    page: int
    box: tuple[float, ...]


def numbers(record: Any, key: str, count: int, place: str) -> tuple[float, ...]:
    """Return a list of so many numbers.

    Raises:
        UserError: it is another.
    """
    values = value_of(record, key, list, place)
    if len(values) != count or not all(isinstance(x, int | float) and not isinstance(x, bool) for x in values):
        raise UserError(f"{place}: '{key}' is {values!r}, expected {count} numbers")
    return tuple(values)


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the area that two boxes (left, top, right, bottom) share, as a part of the smaller one's."""
    sides = [max(0.0, min(one[i + 2], other[i + 2]) - max(one[i], other[i])) for i in (0, 1)]
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return sides[0] * sides[1] / smaller if smaller > 0 else 0.0


def read_parts(path: Path, level: str, options: Options) -> Iterator[Part]:
    """Yield the pages or layouts in the order of their rows.

    Raises:
        UserError: a row in another form, or with nothing that is to be shown; names the file and the row.
    """
    needed = ["doc_name", "page_id", "type", "bbox"] if level == "layout" else ["doc_name"]
    texts = ["text", "ocr_text", "vlm_text"] if level == "layout" else ["ocr_text", "vlm_text"]
    with_image = options.show.startswith("image")
    first: dict[str, int] = {}
    for number, (place, record) in enumerate(read_rows(path, needed, texts, ["image_binary"])):
        document = text_of(record, "doc_name", place)
        start = first.setdefault(document, number)
        page = value_of(record, "page_id", int, place) if level == "layout" else number - start
        box = numbers(record, "bbox", 4, place) if level == "layout" else ()
        is_read = level == "page" or value_of(record, "type", str, place) in WITH_TEXTS
        key = options.show.removeprefix("image_") if is_read else "text"
        text = None if options.show == "image" else text_or_none(record, key, place) or ""
        images = (f"{path}::{number}",) if with_image and record["image_binary"] else ()
        if text is None and not images:
            raise UserError(f"{place}: no 'image_binary' to show")
        yield Part(Item(f"{document}/{level}{number - start}", text, images), document, page, box)


def own_parts(record: dict[str, Any], level: str, parts: list[Part], place: str) -> list[Part]:
    """Return what a document has.

    Raises:
        UserError: rows that are not there, or another document's.
    """
    start, stop = (int(n) for n in numbers(record, f"{level}_indices", 2, place))
    own = parts[start : stop + 1] if 0 <= start <= stop < len(parts) else []
    name = value_of(record, "doc_name", str, place)
    if not own or any(part.document != name for part in own):
        raise UserError(f"{place}: '{level}_indices' {start} to {stop} are not the rows of '{name}' among {len(parts)}")
    return own


def relevant_parts(question: Any, level: str, own: list[Part], place: str) -> list[str]:
    """Return the ids of what is labelled.

    Raises:
        UserError: a label of a page that the document has not, or in another form.
    """
    if level == "page":
        pages = value_of(question, "page_id", list, place)
        if odd := [page for page in pages if not isinstance(page, int) or not 0 <= page < len(own)]:
            raise UserError(f"{place}: 'page_id' holds {odd[0]!r}, expected pages from 0 to {len(own) - 1}")
        return [own[page].item.item_id for page in dict.fromkeys(pages)]
    parts: dict[str, None] = {}
    for label in value_of(question, "layout_mapping", list, place):
        page, box = value_of(label, "page", int, place), numbers(label, "bbox", 4, place)
        parts |= {part.item.item_id: None for part in own if part.page == page and overlap(part.box, box) >= SHARED}
    return list(parts)


def page_of(layout: Part, pages: list[Part], place: str) -> str:
    """Return the id of the page that a layout lies on.

    Raises:
        UserError: the document has no such page.
    """
    if not 0 <= layout.page < len(pages):
        raise UserError(f"{place}: {layout.item.item_id} lies on page {layout.page} of {len(pages)}")
    return pages[layout.page].item.item_id


def read_mmdocir(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read both levels, or the one that the row lists.

    Raises:
        UserError: a record in another form, named by file and line.
    """
    options = parse(Options, row.options, "options")
    levels = [name for name in ("page", "layout") if name in row.tasks or not row.tasks]
    parts = {level: list(read_parts(folder / f"MMDocIR_{level}s.parquet", level, options)) for level in levels}
    queries, qrels, lists, parents = [], [], [], []
    for place, record in read_jsonl(folder / "MMDocIR_annotations.jsonl"):
        own = {level: own_parts(record, level, parts[level], place) for level in levels}
        if len(levels) > 1:
            parents += [("layout", part.item.item_id, page_of(part, own["page"], place)) for part in own["layout"]]
        name = text_of(record, "doc_name", place)
        for number, labelled in enumerate(value_of(record, "questions", list, place)):
            question = value_of({"questions": labelled}, "questions", dict, place)
            query = f"{name}/question{number}"
            queries.append(Item(query, text_of(question, "Q", place).strip(), ()))
            for level in levels:
                lists.append(Listed(level, "document", query, [part.item.item_id for part in own[level]]))
                qrels += [Qrel(level, query, item) for item in relevant_parts(question, level, own[level], place)]
    shown = "text" if not options.show.startswith("image") else "image" if options.show == "image" else "image_text"
    tasks = [Task(x, "text", shown, "query", {"document": [x], "all": [x]}, ("document",)) for x in levels]
    tables = {"query": queries} | {level: [part.item for part in parts[level]] for level in levels}
    return Contents(tables, tasks, qrels, lists, parents=parents)


READER = Reader(read_mmdocir, Options)
