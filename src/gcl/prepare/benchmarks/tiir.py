"""wikiHow-TIIR: queries and documents that are texts and several images in turn (arXiv 2502.12799).

    queries.jsonl      {"qid": ..., "data": [text or name of an image that ends in .png, ...]}
    documents.jsonl    {"id": ..., "data": [...]}
    qrels.jsonl        {"did": ..., "qid": ...}; lines without qid, which list further documents, are skipped

Texts are joined by spaces, and where images stand among them is kept for models that read items in turns; others pool
images, which is the authors' vector fusion. The pool is all documents; one is relevant, so that AP@10 is what the
authors call MRR@10.
"""

from collections.abc import Iterator
from pathlib import Path

from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.rows import STRICT, parse
from gcl.config.benchmarks import Benchmark
from gcl.data.annotations import locate, read_jsonl, value_of, well_formed
from gcl.data.items import Contents, Item, Qrel, Task
from gcl.prepare.benchmarks import Reader
from gcl.prepare.benchmarks.beir import unique

IMAGE = ".png"  # what isn't so called is a text


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """The names of the three files."""

    queries: str = "queries.jsonl"
    documents: str = "documents.jsonl"
    qrels: str = "qrels.jsonl"


def identifier(record: dict, key: str, place: str) -> str:
    """Return an id, a text or a whole number.

    Raises:
        UserError: it is neither, or empty.
    """
    value = record.get(key)
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise UserError(f"{place}: '{key}' is {value!r}, expected a string that isn't empty, or a whole number")
    return well_formed(str(value), f"{place}: '{key}'")


def read_items(path: Path, key: str, images: Path) -> Iterator[Item]:
    """Yield items of texts and images.

    Raises:
        UserError: a record in another form, or with nothing in it; names the file and the line.
    """
    for place, record in read_jsonl(path):
        item_id, parts = identifier(record, key, place), value_of(record, "data", list, place)
        if odd := [part for part in parts if not isinstance(part, str)]:
            raise UserError(f"{place}: 'data' holds {odd[0]!r}, expected texts and names of images")
        shown = tuple(locate(images, part, place) for part in parts if part.endswith(IMAGE))
        text, places = "", []
        for part in parts:
            if part.endswith(IMAGE):
                places.append(len(text))
            elif part.strip():
                text = f"{text} {part.strip()}" if text else part.strip()
        if not text and not shown:
            raise UserError(f"{place}: '{item_id}' has neither text nor image")
        in_turns = bool(text) and (any(places) or len(places) > 1)
        whole = well_formed(text, f"{place}: 'data'") or None
        yield Item(item_id, whole, shown, places=tuple(places) if in_turns else ())


def read_tiir(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read queries, documents and qrels.

    Raises:
        UserError: a record in another form, an id that occurs twice, or qrels that name an unknown id.
    """
    options = parse(Options, row.options, "options")
    queries = unique(list(read_items(folder / options.queries, "qid", images)), folder / options.queries)
    documents = unique(list(read_items(folder / options.documents, "id", images)), folder / options.documents)
    qrels = []
    for place, record in read_jsonl(folder / options.qrels):
        if record.get("qid") is None:
            continue
        query, document = identifier(record, "qid", place), identifier(record, "did", place)
        if query not in queries or document not in documents:
            what = f"query '{query}'" if query not in queries else f"document '{document}'"
            raise UserError(f"{place}: {what} is in neither {options.queries} nor {options.documents}")
        qrels.append(Qrel("tiir", query, document))
    if not qrels:
        raise UserError(f"{folder / options.qrels} names no relevant document")
    query_modality, candidate_modality = next(iter(queries.values())).modality, next(iter(documents.values())).modality
    task = Task("tiir", query_modality, candidate_modality, "query", {"all": ["pool"]})
    return Contents({"query": list(queries.values()), "pool": list(documents.values())}, [task], qrels)


READER = Reader(read_tiir, Options)
