"""M-BEIR (UniIR, arXiv 2311.17136): sixteen tasks over ten data sets.

A task is <data set>_task<n>, and n says what is asked with and for. A local pool holds one task's candidates, the
global pool those of all sixteen; nothing is left out of either, not the query's own text or image. What counts is
the qrels file. Positives may belong to another data set (OVEN and InfoSeek share Wikipedia): only the global pool
can have those.
"""

import hashlib
import logging
import re
from collections import Counter
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.rows import STRICT, parse
from gcl.config.benchmarks import Benchmark
from gcl.data.annotations import locate, read_jsonl, read_lines, text_of, text_or_none
from gcl.data.items import Contents, Item, Qrel, Task
from gcl.prepare.benchmarks import Reader

log = logging.getLogger(__name__)

MODALITIES = {
    0: ("text", "image"),
    1: ("text", "text"),
    2: ("text", "image_text"),
    3: ("image", "text"),
    4: ("image", "image"),
    6: ("image_text", "text"),
    7: ("image_text", "image"),
    8: ("image_text", "image_text"),
}
NAME = re.compile(r"^[a-z0-9]+_task([0-8])$")
ENDINGS = (".", "?", "!")

PromptTable = dict[tuple[str, str, str], list[str]]  # (data set's number, query modality, candidate modality)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """The protocol of M-BEIR; the global pool is there if all tasks are."""

    tasks: list[str] = field(default_factory=list)  # none: all that the row lists
    prompts: Literal["none", "first", "seeded"] = (
        "none"  # what is said before a query: nothing, the first prompt, or one chosen by the query's id
    )


def clean(text: str | None) -> str:
    """Clean a prompt, a query's text or a candidate's as UniIR does; an empty text stays empty."""
    text = (text or "").replace("\r", "").strip().strip('"')
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text.endswith(ENDINGS) else text + "."


def modality(name: str, place: str) -> str:
    """Read a modality, whose two parts come in either order."""
    parts = sorted(part.strip() for part in name.split(","))
    if parts not in (["image"], ["text"], ["image", "text"]):
        raise UserError(f"{place}: unknown modality {name!r}, expected image, text or image,text")
    return "_".join(parts)


class Source(NamedTuple):
    """Where a split of M-BEIR lies."""

    folder: Path
    images: Path
    split: str

    def queries(self, task: str) -> Path:
        """Return a task's queries."""
        return self.folder / "query" / self.split / f"mbeir_{task}_{self.split}.jsonl"

    def pool(self, task: str) -> Path:
        """Return a task's candidates; MSCOCO has them by split."""
        local = self.folder / "cand_pool/local"
        by_split = local / f"mbeir_{task}_{self.split}_cand_pool.jsonl"
        return by_split if by_split.exists() else local / f"mbeir_{task}_cand_pool.jsonl"

    def qrels(self, task: str) -> Path:
        """Return a task's qrels."""
        return self.folder / "qrels" / self.split / f"mbeir_{task}_{self.split}_qrels.txt"

    def location(self, record: dict[str, Any], key: str, place: str) -> tuple[str, ...]:
        """Return the image of a record, if it has one."""
        path = text_or_none(record, key, place)
        return (locate(self.images, path, place),) if path else ()


def read_prompts(path: Path) -> PromptTable:
    """Read query_instructions.tsv: modality of query and candidate, a name, the data set's number, prompts."""
    prompts: PromptTable = {}
    for place, line in list(read_lines(path))[1:]:
        cells = line.strip().split("\t")
        if len(cells) < 5:
            raise UserError(f"{place}: {len(cells)} columns, expected two modalities, a name, a number and prompts")
        key = (cells[3], modality(cells[0], place), modality(cells[1], place))
        prompts[key] = [clean(cell) for cell in cells[4:] if cell.strip()]
    return prompts


def choose_prompt(prompts: list[str], mode: str, query_id: str) -> str:
    """Return no prompt, the first one, or one that the query's id determines."""
    if mode == "none":
        return ""
    if mode == "first":
        return prompts[0]
    return prompts[int(hashlib.sha256(query_id.encode()).hexdigest(), 16) % len(prompts)]


def prompted(prompt: str, text: str | None) -> str:
    """Return what is embedded of a query's text; with a prompt, a query of an image has a text too."""
    return clean(f"{prompt} {text or ''}") if prompt else clean(text)


def positives(record: dict[str, Any], place: str) -> set[str]:
    """Return the relevant candidates that a query lists, as ids or as objects with a did."""
    entries = record.get("pos_cand_list") or []
    if not isinstance(entries, list):
        raise UserError(f"{place}: 'pos_cand_list' is {entries!r}, expected a list")
    return {text_of(entry, "did", place) if isinstance(entry, dict) else str(entry) for entry in entries}


def read_qrels(path: Path, task: str) -> list[Qrel]:
    """Read lines of: query 0 candidate relevance task; the last column may be absent."""
    number = task_number(task)
    qrels = []
    for place, line in read_lines(path):
        cells = line.split()
        if len(cells) not in (4, 5) or not re.fullmatch("-?[0-9]+", cells[3]):
            raise UserError(f"{place}: {line!r}, expected 'query 0 candidate relevance task'")
        if len(cells) == 5 and cells[4] != str(number):
            raise UserError(f"{place}: task {cells[4]}, expected {number}")
        if int(cells[3]) > 0:
            qrels.append(Qrel(task, cells[0], cells[2], int(cells[3])))
    return list(dict.fromkeys(qrels))


def task_number(task: str) -> int:
    """Return the number at the end of a task's name."""
    if not (match := NAME.match(task)) or int(match[1]) not in MODALITIES:
        raise UserError(f"'{task}' is no task of M-BEIR, expected <data set>_task<{', '.join(map(str, MODALITIES))}>")
    return int(match[1])


def item_id(record: dict[str, Any], key: str, place: str) -> str:
    """Return an id, which is <data set>:<number>."""
    identifier = text_of(record, key, place)
    if not re.fullmatch(r"\d+:\d+", identifier):
        raise UserError(f"{place}: '{key}' is {identifier!r}, expected <data set>:<number>")
    return identifier


class Rejects:
    """Items without text and image, and queries among them."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []
        self.missing: list[tuple[str, str]] = []
        self.lost: Counter[str] = Counter()  # table -> candidates


def read_queries(
    source: Source, task: str, mode: str, prompts: PromptTable, rejects: Rejects
) -> tuple[list[Item], set[Qrel]]:
    """Read a task's queries, and what they say is relevant."""
    query_modality, wanted = MODALITIES[task_number(task)]
    items, listed_positives = [], set()
    for place, record in read_jsonl(source.queries(task)):
        query_id = item_id(record, "qid", place)
        written = modality(text_of(record, "query_modality", place), place)
        if written != query_modality:
            raise UserError(f"{place}: query of modality {written}, but {task} asks with {query_modality}")
        key = (query_id.split(":")[0], query_modality, wanted)
        if mode != "none" and key not in prompts:
            raise UserError(
                f"{place}: query_instructions.tsv has no prompt for data set {key[0]}, {query_modality} to {wanted}"
            )
        prompt = choose_prompt(prompts.get(key, []), mode, query_id)
        text = prompted(prompt, text_or_none(record, "query_txt", place)) or None
        images = source.location(record, "query_img_path", place)
        listed_positives |= {Qrel(task, query_id, did) for did in positives(record, place)}
        if text is None and not images:
            rejects.rows.append((f"{task} {query_id}", place, "neither text nor image"))
            rejects.missing.append((task, query_id))
            continue
        items.append(Item(query_id, text, images))
    return items, listed_positives


def read_pool(source: Source, task: str, rejects: Rejects) -> list[Item]:
    """Read a task's candidates."""
    wanted = MODALITIES[task_number(task)][1]
    items = []
    for place, record in read_jsonl(source.pool(task)):
        did = item_id(record, "did", place)
        candidate_modality = modality(text_of(record, "modality", place), place)
        if candidate_modality != wanted:
            raise UserError(f"{place}: candidate of modality {candidate_modality}, but {task} looks for {wanted}")
        text = clean(text_or_none(record, "txt", place)) or None
        images = source.location(record, "img_path", place)
        if text is None and not images:
            rejects.rows.append((f"{task} {did}", place, "neither text nor image"))
            rejects.lost[f"pool_{task}"] += 1
            continue
        items.append(Item(did, text, images))
    return items


def read_mbeir(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read the chosen tasks; there is a global pool if they are all of the row's.

    Raises:
        UserError: a record or line in another form, named by file and line.
    """
    options = parse(Options, row.options, "options")
    names = [name for name in row.tasks if not options.tasks or name in options.tasks]
    source = Source(folder, images, row.split)
    prompts = read_prompts(folder / "instructions/query_instructions.tsv") if options.prompts != "none" else {}
    is_whole = len(names) == len(row.tasks)
    tables: dict[str, list[Item]] = {}
    tasks, qrels, rejects = [], [], Rejects()
    for name in names:
        tables[f"query_{name}"], listed_positives = read_queries(source, name, options.prompts, prompts, rejects)
        tables[f"pool_{name}"] = read_pool(source, name, rejects)
        judged = read_qrels(source.qrels(name), name)
        if different := listed_positives ^ {qrel._replace(relevance=1) for qrel in judged}:
            log.warning("%s: pos_cand_list and qrels differ in %d lines; the qrels count", name, len(different))
        qrels += judged
        pools = {"local": [f"pool_{name}"]} | ({"global": [f"pool_{n}" for n in names]} if is_whole else {})
        tasks.append(Task(name, *MODALITIES[task_number(name)], f"query_{name}", pools))
    if not is_whole:
        log.info("%d of %d tasks: no global pool", len(names), len(row.tasks))
    contents = Contents(tables, tasks, qrels, missing=rejects.missing, rejects=rejects.rows, lost=rejects.lost)
    return drop_missing(contents, is_whole)


def drop_missing(contents: Contents, is_whole: bool) -> Contents:
    """Take out qrels of queries that can't be used, and say which candidates no pool needs to have.

    Those are candidates of other data sets, unless there is a global pool, and those that were rejected.
    """
    missing = set(contents.missing)
    rejected = {name.split()[1] for name, _, _ in contents.rejects}
    foreign = {q.candidate_id for q in contents.qrels if q.candidate_id.split(":")[0] != q.query_id.split(":")[0]}
    if foreign and not is_whole:
        log.info("%d relevant candidates are of another data set and in no local pool", len(foreign))
    kept = [qrel for qrel in contents.qrels if (qrel.task, qrel.query_id) not in missing]
    return contents._replace(qrels=kept, absent=frozenset(rejected | (set() if is_whole else foreign)))


READER = Reader(read_mbeir, Options)
