"""M2KR: questions with images, and the passages of an encyclopedia that answer them (PreFLMR, arXiv 2402.08327).

    <task>_data/<split>-*.parquet                 question_id, question, instruction, img_path, pos_item_ids, answers
    <task>_passages/<split>_passages-*.parquet    passage_id, passage_content

as the hub's multi_task_multi_modal_knowledge_retrieval_benchmark_M2KR has them; images lie at
<images>/<task>/<img_path>. WIT, IGLUE and KVQA ask with an image, MSMARCO with a text, OVEN, LLaVA, OKVQA, Infoseek
and EVQA with both. A query succeeds if one of its passages is found. The last three have answers too: a task
<task>_pseudo counts a passage that holds one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.rows import STRICT, parse
from gcl.config.benchmarks import Benchmark
from gcl.data.annotations import locate, read_rows, text_or_none, value_of
from gcl.data.items import Contents, Item, Qrel, Task
from gcl.prepare.benchmarks import Reader
from gcl.prepare.benchmarks.beir import unique

PSEUDO = "_pseudo"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """The protocol of M2KR."""

    instructions: Literal["keep", "strip"] = "keep"  # before the question, as PreFLMR asks


def shards(folder: Path, pattern: str) -> list[Path]:
    """Return the Parquet files of one split.

    Raises:
        UserError: there is none.
    """
    files = sorted(folder.glob(pattern))
    if not files:
        raise UserError(f"{folder}/{pattern}: no such file; fetch the data set again")
    return files


def query_text(record: dict[str, Any], options: Options, place: str) -> str | None:
    """Return instruction, colon and question, as PreFLMR joins them; None if nothing of it is there."""
    question = (text_or_none(record, "question", place) or "").strip()
    instruction = (text_or_none(record, "instruction", place) or "").strip() if options.instructions == "keep" else ""
    if instruction and not instruction.endswith(":"):
        instruction += ":"
    return f"{instruction} {question}".strip() or None


def strings(record: dict[str, Any], key: str, place: str) -> list[str]:
    """Return a list of strings.

    Raises:
        UserError: it is none, or has others.
    """
    values = value_of(record, key, list, place)
    if odd := [x for x in values if not isinstance(x, str)]:
        raise UserError(f"{place}: '{key}' holds {odd[0]!r}, expected strings")
    return values


def read_queries(
    folder: Path, name: str, split: str, images: Path, options: Options
) -> Iterator[tuple[Item, list[str], list[str]]]:
    """Yield the queries of a task, each with the ids of its passages and its answers.

    Raises:
        UserError: a row in another form, or without both text and image; names the file and the row.
    """
    for path in shards(folder, f"{name}_data/{split}-*.parquet"):
        for place, record in read_rows(
            path, ["question_id", "pos_item_ids"], ["question", "instruction", "img_path", "answers"]
        ):
            query = value_of(record, "question_id", str, place)
            text, image = query_text(record, options, place), text_or_none(record, "img_path", place)
            if text is None and image is None:
                raise UserError(f"{place}: '{query}' has neither text nor image")
            shown = (locate(images / name, image, place),) if image else ()
            answers = strings(record, "answers", place) if record.get("answers") is not None else []
            yield Item(query, text, shown), strings(record, "pos_item_ids", place), [a for a in answers if a.strip()]


def read_passages(folder: Path, name: str, split: str) -> Iterator[Item]:
    """Yield the passages of a task; one without text stays, since it is searched too."""
    for path in shards(folder, f"{name}_passages/{split}_passages-*.parquet"):
        for place, record in read_rows(path, ["passage_id", "passage_content"]):
            yield Item(value_of(record, "passage_id", str, place), value_of(record, "passage_content", str, place), ())


def read_m2kr(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read the tasks that the row lists.

    Raises:
        UserError: a file in another form, an id that occurs twice, or a task_pseudo without answers.
    """
    options = parse(Options, row.options, "options")
    tables: dict[str, list[Item]] = {}
    tasks, qrels, answers, absent = [], [], [], set()
    for name in (name for name in row.tasks if not name.endswith(PSEUDO)):
        rows = list(read_queries(folder, name, row.split, images, options))
        if not rows:
            raise UserError(f"{folder}/{name}_data: the {row.split} split holds no query")
        unique(queries := [query for query, _, _ in rows], folder / f"{name}_data")
        passages = unique(list(read_passages(folder, name, row.split)), folder / f"{name}_passages")
        tables |= {f"query_{name}": queries, f"pool_{name}": list(passages.values())}
        form = (queries[0].modality, "text", f"query_{name}", {"local": [f"pool_{name}"]})
        tasks.append(Task(name, *form))
        for query, relevant, _ in rows:
            qrels += [Qrel(name, query.item_id, passage) for passage in dict.fromkeys(relevant)]
            absent |= set(relevant) - passages.keys()
        if (pseudo := f"{name}{PSEUDO}") in row.tasks:
            if not any(relevant for _, _, relevant in rows):
                raise UserError(
                    f"{folder}/{name}_data has no answers, which {pseudo} counts; leave it out of the row's tasks"
                )
            tasks.append(Task(pseudo, *form))
            answers += [(pseudo, query.item_id, relevant) for query, _, relevant in rows]
    return Contents(tables, tasks, qrels, absent=frozenset(absent), answers=answers)


READER = Reader(read_m2kr, Options)
