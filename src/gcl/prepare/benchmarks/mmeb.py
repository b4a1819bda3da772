"""MMEB (VLM2Vec, arXiv 2410.05160), the 36 image sets: each query ranks its own list, of which the first is right.

official  each query's own list, as in MMEB. A candidate is its text and its image together; one that a list repeats
          counts once. The right one is put last, where a tie never helps it: MMEB's own argmax gives it every tie,
          so that a model whose scores are all equal gets 100 %.
mixed     one pool of all candidates of the sets named in the row's options, which is no protocol of MMEB's.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.rows import STRICT, parse
from gcl.config.benchmarks import Benchmark, TaskFacts
from gcl.data.annotations import locate
from gcl.data.items import Contents, Item, Listed, Qrel, Task
from gcl.data.records import read_parquet
from gcl.prepare.benchmarks import Reader

log = logging.getLogger(__name__)

PLACEHOLDER = re.compile(r"<\|image(_\d+|_pad)?\|>")
CandidateKey = tuple[str, str]  # text and image path of a candidate


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """The protocol of MMEB."""

    tasks: list[str] = field(default_factory=list)  # none: all that the row lists
    instructions: Literal["strip", "keep"] = "strip"
    mixed: list[str] = field(default_factory=list)  # tasks whose candidates make one pool besides; none: no such pool


class Row(NamedTuple):
    """One row of a subset: a query and its list, the right candidate first."""

    place: str
    text: str
    image: str
    candidates: list[CandidateKey]


def without_placeholder(text: str) -> str:
    """Remove the marks where a model would read the image, and white space around."""
    return PLACEHOLDER.sub("", text).strip()


def spread(value: Any, n: int, key: str, place: str) -> list[str]:
    """Return a column of the list as n strings; a bare string stands for all of them."""
    if value is None or isinstance(value, str):
        return [value or ""] * n
    if len(value) != n:
        raise UserError(f"{place}: '{key}' has {len(value)} entries, expected {n}")
    return [entry or "" for entry in value]


def list_length(record: dict[str, Any], place: str) -> int:
    """Return how many candidates a row lists."""
    lengths = [len(record[key]) for key in ("tgt_text", "tgt_img_path") if isinstance(record.get(key), list)]
    if not lengths or not max(lengths):
        raise UserError(f"{place}: neither 'tgt_text' nor 'tgt_img_path' lists candidates")
    return lengths[0]


def read_rows(path: Path, keep: bool) -> Iterator[Row]:
    """Read a subset in either layout: instructions in columns of their own, or within the text.

    Raises:
        UserError: instructions shall be stripped but can't be told from the rest.
    """
    table = read_parquet(path)
    if lacking := {"qry_text", "qry_img_path", "tgt_text"} - set(table.column_names):
        raise UserError(f"{path} has no column {', '.join(sorted(lacking))}, only {', '.join(table.column_names)}")
    if not keep and "qry_inst" not in table.column_names:
        raise UserError(f"{path} has no column qry_inst: its instructions are part of the text and can't be stripped")
    for number, record in enumerate(table.to_pylist()):
        place = f"{path} row {number}"
        n = list_length(record, place)
        texts = spread(record["tgt_text"], n, "tgt_text", place)
        told = spread(record.get("tgt_inst"), n, "tgt_inst", place) if keep else [""] * n
        paths = spread(record.get("tgt_img_path"), n, "tgt_img_path", place)
        question = [record.get("qry_inst") or "", record["qry_text"] or ""] if keep else [record["qry_text"] or ""]
        candidates = [(joined([i, t]), p) for i, t, p in zip(told, texts, paths, strict=True)]
        yield Row(place, joined(question), record["qry_img_path"] or "", candidates)


def joined(parts: list[str]) -> str:
    """Join an instruction and a text."""
    return " ".join(filter(None, map(without_placeholder, parts)))


class CandidateTables:
    """Gathers candidates in tables, each distinct one once."""

    def __init__(self, images: Path, options: Options) -> None:
        self.images, self.options = images, options
        self.tables: dict[str, list[Item]] = {}
        self.ids: dict[str, dict[tuple[str | None, tuple[str, ...]], str]] = {}

    def content(self, text: str, image: str, modality: str | None, place: str) -> tuple[str | None, tuple[str, ...]]:
        """Return what an item has: what is stored or, without instructions, what the task's modality says."""
        is_kept = self.options.instructions == "keep" or modality is None
        shown_text = text if text and (is_kept or modality != "image") else None
        images = (locate(self.images, image, place),) if image and (is_kept or modality != "text") else ()
        if shown_text is None and not images:
            raise UserError(f"{place}: an item has neither text nor image (expected {modality or 'either'})")
        return shown_text, images

    def candidate(self, table: str, text: str, image: str, modality: str | None, place: str) -> str:
        """Return the id of a candidate in a table, new or known."""
        content = self.content(text, image, modality, place)
        known = self.ids.setdefault(table, {})
        if content not in known:
            known[content] = f"{table}:{len(known)}"
            self.tables.setdefault(table, []).append(Item(known[content], *content))
        return known[content]

    def task(self, name: str, facts: TaskFacts, path: Path) -> tuple[Task, list[Qrel], list[Listed]]:
        """Read one subset."""
        table = "mixed" if name in self.options.mixed else "own"
        queries, qrels, lists, repeats = [], [], [], 0
        for number, row in enumerate(read_rows(path, self.options.instructions == "keep")):
            query = f"{name}:{number}"
            queries.append(Item(query, *self.content(row.text, row.image, facts.query, row.place)))
            ids = [self.candidate(table, *key, facts.candidate, row.place) for key in row.candidates]
            right, others = ids[0], list(dict.fromkeys(i for i in ids[1:] if i != ids[0]))
            repeats += right in ids[1:]
            qrels.append(Qrel(name, query, right))
            lists.append(Listed(name, "official", query, [*others, right], len(ids)))
        if repeats:
            log.info("%s: the right candidate is repeated among the others in %d rows", name, repeats)
        self.tables[f"query_{name}"] = queries
        pools = {"official": [table]} | ({"mixed": ["mixed"]} if table == "mixed" else {})
        kinds = facts.query or queries[0].modality, facts.candidate or "text"
        return Task(name, *kinds, f"query_{name}", pools, ("official",)), qrels, lists


def read_mmeb(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read the chosen subsets.

    Raises:
        UserError: a row in another form, named by file and number.
    """
    options = parse(Options, row.options, "options")
    names = [name for name in row.tasks if not options.tasks or name in options.tasks]
    if lacking := set(options.mixed) - set(names):
        raise UserError(f"the mixed pool needs tasks that aren't chosen: {', '.join(sorted(lacking))}")
    reader = CandidateTables(images, options)
    tasks, qrels, lists = [], [], []
    for name in names:
        path = folder / name / "test-00000-of-00001.parquet"
        task, judged, own = reader.task(name, row.tasks[name], path)
        tasks.append(task)
        qrels += judged
        lists += own
    return Contents(reader.tables, tasks, qrels, lists)


READER = Reader(read_mmeb, Options)
