"""Your own queries, candidates and qrels in BEIR's layout (arXiv 2104.08663), with images where there are some.

    corpus.jsonl        {"_id": ..., "title": ..., "text": ..., "image": path}    one of title, text and image at least
    queries.jsonl       {"_id": ..., "text": ..., "image": path}
    qrels/<split>.tsv   query-id, corpus-id, score, with a header; a score above nought is relevant

A path is relative to the folder of images. There is a task for every pair of modalities that the qrels join; its
queries are those with a relevant candidate of that modality. The local pool holds candidates of one modality, the
global pool all. As in BEIR's own evaluation, a candidate with the query's id is left out of its ranking.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic.dataclasses import dataclass

from gcl.common.arrays import MODALITIES, SHORT
from gcl.common.errors import UserError
from gcl.common.rows import STRICT, parse
from gcl.config.benchmarks import Benchmark
from gcl.data.annotations import locate, read_jsonl, read_lines, text_or_none
from gcl.data.items import Contents, Excluded, Item, Qrel, Task
from gcl.prepare.benchmarks import Reader

HEADER = ["query-id", "corpus-id", "score"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """The protocol of BEIR's evaluation."""

    ignore_identical_ids: bool = True  # leave a candidate that has the query's id out of its ranking


def read_items(path: Path, images: Path) -> Iterator[Item]:
    """Read corpus.jsonl or queries.jsonl.

    Raises:
        UserError: a record in another form, named by file and line.
    """
    for place, record in read_jsonl(path):
        item_id = record.get("_id")
        if not isinstance(item_id, str | int) or item_id == "":
            raise UserError(f"{place}: '_id' is {item_id!r}, expected a string that isn't empty")
        parts = [text_or_none(record, key, place) or "" for key in ("title", "text")]
        text = " ".join(parts).strip() or None
        image = text_or_none(record, "image", place)
        if text is None and image is None:
            raise UserError(f"{place}: '{item_id}' has neither text nor image")
        yield Item(str(item_id), text, (locate(images, image, place),) if image else ())


def read_qrels(path: Path, names: list[str] = HEADER) -> dict[tuple[str, str], int]:
    """Read a file of qrels with a header of these names: (query, candidate) -> score, of those above nought.

    Raises:
        UserError: a line in another form, or a pair that stands twice with different scores.
    """
    lines = read_lines(path)
    place, header = next(lines, (str(path), ""))
    if header.split("\t") != names:
        raise UserError(f"{place}: {header!r}, expected the header {' '.join(names)}, between tabs")
    grades: dict[tuple[str, str], int] = {}
    for place, line in lines:
        cells = line.split("\t")
        if len(cells) != len(names) or not re.fullmatch(" *-?[0-9]+ *", cells[2]):
            raise UserError(f"{place}: {line!r}, expected a query, a candidate and a whole number, between tabs")
        query, candidate, score = cells[0], cells[1], int(cells[2])
        if grades.setdefault((query, candidate), score) != score:
            raise UserError(f"{place}: '{query}' and '{candidate}' have score {grades[query, candidate]} before")
    return {key: score for key, score in grades.items() if score > 0}


def read_beir(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read one split.

    Raises:
        UserError: a record in another form, an id that occurs twice, or qrels that name an unknown id.
    """
    options = parse(Options, row.options, "options")
    corpus, queries = (
        unique(list(read_items(folder / name, images)), folder / name) for name in ("corpus.jsonl", "queries.jsonl")
    )
    path = folder / f"qrels/{row.split}.tsv"
    qrels = read_qrels(path)
    for query, candidate in qrels:
        if query not in queries or candidate not in corpus:
            what = f"query '{query}'" if query not in queries else f"candidate '{candidate}'"
            raise UserError(f"{path}: {what} is in neither queries.jsonl nor corpus.jsonl")
    if not qrels:
        raise UserError(f"{path} holds no relevant candidate")
    by_modality = {m: [item for item in corpus.values() if item.modality == m] for m in MODALITIES}
    tables = {f"pool_{m}": items for m, items in by_modality.items() if items}
    tasks, kept, excluded = [], [], []
    for q, c in sorted({(queries[a].modality, corpus[b].modality) for a, b in qrels}):
        name = f"{SHORT[q]}_{SHORT[c]}"
        chosen = {
            pair: s for pair, s in qrels.items() if (queries[pair[0]].modality, corpus[pair[1]].modality) == (q, c)
        }
        names = {query for query, _ in chosen}
        tables[f"query_{name}"] = [item for item in queries.values() if item.item_id in names]
        pools = {"local": [f"pool_{c}"]} | {"global": [n for n in tables if n.startswith("pool_")]}
        tasks.append(Task(name, q, c, f"query_{name}", pools))
        kept += [Qrel(name, query, candidate, score) for (query, candidate), score in chosen.items()]
        if options.ignore_identical_ids:
            excluded += [Excluded(name, query, [query]) for query in sorted(names) if query in corpus]
    return Contents(tables, tasks, kept, [], excluded)


def unique(items: list[Item], path: Path) -> dict[str, Item]:
    """Return items by their ids.

    Raises:
        UserError: an id occurs twice.
    """
    by_id = {item.item_id: item for item in items}
    if len(by_id) < len(items):
        twice = next(item.item_id for item in items if by_id[item.item_id] is not item)
        raise UserError(f"{path}: id '{twice}' occurs twice")
    return by_id


READER = Reader(read_beir, Options)
