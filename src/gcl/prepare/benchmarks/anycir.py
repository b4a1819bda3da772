"""AnyCIR (arXiv 2510.18703): of two consecutive snippets of a web document one finds the other, each as any modality.

pairs      a line for two snippets, as VC2L's evaluation reads OBELICS: pre_text, pre_img, next_text, next_img; the
           last of both pairs are lists of files, null where an image was lost
documents  a line for a document: {"id": ..., "snippets": [{"text": ..., "images": [...]}, ...]}

Only pairs whose both snippets have an image take part, each with its first image: nine tasks of the same snippets in
each direction, `next` and `previous`. The authors call Success@k recall, and the directions PreNxt and NxtPre.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic.dataclasses import dataclass

from gcl.common.arrays import MODALITIES, SHORT
from gcl.common.errors import UserError
from gcl.common.rows import STRICT, parse
from gcl.config.benchmarks import Benchmark
from gcl.data.annotations import locate, read_jsonl, text_of, value_of
from gcl.data.items import Contents, Item, Qrel, Task
from gcl.prepare.benchmarks import Reader


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """The file, and what a line of it is."""

    file: str = "anycir.jsonl"
    form: Literal["pairs", "documents"] = "pairs"


class Snippet(NamedTuple):
    """A piece of a document."""

    text: str
    image: str | None  # location of the first


def snippet_of(record: dict[str, Any], text: str, files: str, images: Path, place: str) -> Snippet:
    """Return a snippet.

    Raises:
        UserError: no text, or a file that is no name.
    """
    paths = value_of(record, files, list, place) if record.get(files) is not None else []
    names = [text_of({files: name}, files, place) for name in paths if name is not None]
    return Snippet(text_of(record, text, place), locate(images, names[0], place) if names else None)


def snippet_pairs(path: Path, form: str, images: Path) -> Iterator[tuple[Snippet, Snippet]]:
    """Yield consecutive snippets that both have an image.

    Raises:
        UserError: a record in another form; names the file and the line.
    """
    for place, record in read_jsonl(path):
        if form == "pairs":
            sides = [snippet_of(record, f"{side}_text", f"{side}_img", images, place) for side in ("pre", "next")]
        else:
            rows = value_of(record, "snippets", list, place)
            if odd := [row for row in rows if not isinstance(row, dict)]:
                raise UserError(f"{place}: 'snippets' holds {odd[0]!r}, expected objects with text and images")
            sides = [snippet_of(row, "text", "images", images, place) for row in rows]
        yield from ((one, other) for one, other in pairwise(sides) if one.image and other.image)


def item_of(snippet: Snippet, modality: str, item_id: str) -> Item:
    """Return a snippet as an item of a modality."""
    images = () if modality == "text" or snippet.image is None else (snippet.image,)
    return Item(item_id, None if modality == "image" else snippet.text, images)


def read_anycir(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read the pairs.

    Raises:
        UserError: a record in another form, or no pair of snippets with images.
    """
    options = parse(Options, row.options, "options")
    pairs = [*snippet_pairs(folder / options.file, options.form, images)]
    if not pairs:
        raise UserError(f"{folder / options.file} has no two consecutive snippets with an image each")
    tables = {
        f"{side}_{SHORT[m]}": [item_of(pair[k], m, str(n)) for n, pair in enumerate(pairs)]
        for k, side in enumerate(("previous", "next"))
        for m in MODALITIES
    }
    tasks = [
        Task(f"{to}_{SHORT[q]}_{SHORT[c]}", q, c, f"{of}_{SHORT[q]}", {"all": [f"{to}_{SHORT[c]}"]})
        for of, to in (("previous", "next"), ("next", "previous"))
        for q in MODALITIES
        for c in MODALITIES
    ]
    qrels = [Qrel(task.name, str(n), str(n)) for task in tasks for n in range(len(pairs))]
    return Contents(tables, tasks, qrels)


READER = Reader(read_anycir, Options)
