"""MixBench: one pool of texts, images and documents of both, where each query has one relevant candidate.

    <subset>/queries.parquet, <subset>/mixed_corpus.parquet    id, text, image {bytes, path}; either may be null
    <subset>/qrels/qrels.tsv                                   query_id, corpus_id, score, with a header

Subsets are MSCOCO, Google_WIT, VisualNews and OVEN, a task each. The documents are those of the hub's MixBench2026, the
qrels those of MixBench25, since the former has none. The pool is a subset's whole mixed corpus; the measure, nDCG@10.
As in the authors' evaluation a candidate with the query's id stays in (arXiv 2507.19054).
"""

from collections.abc import Iterator
from pathlib import Path

from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.rows import STRICT
from gcl.config.benchmarks import Benchmark
from gcl.data.annotations import read_rows, well_formed
from gcl.data.items import Contents, Item, Qrel, Task
from gcl.prepare.benchmarks import Reader
from gcl.prepare.benchmarks.beir import read_qrels, unique

HEADER = ["query_id", "corpus_id", "score"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """MixBench has one protocol."""


def read_items(path: Path) -> Iterator[Item]:
    """Read queries or documents.

    Raises:
        UserError: a column is missing, or a row has no id, or neither text nor image; names the file and the row.
    """
    for place, record in read_rows(path, ["id", "text"], present=["image"]):
        item_id, text, number = record["id"], record["text"], place.rpartition(" ")[2]
        if not isinstance(item_id, str | int) or item_id == "":
            raise UserError(f"{place}: 'id' is {item_id!r}, expected a string that isn't empty, or a whole number")
        if text is not None and not isinstance(text, str):
            raise UserError(f"{place}: 'text' is {text!r}, expected a string or null")
        if not text and not record["image"]:
            raise UserError(f"{place}: '{item_id}' has neither text nor image")
        shown_text = well_formed(text, f"{place}: 'text'") if text else None
        yield Item(str(item_id), shown_text, (f"{path}::{number}",) if record["image"] else ())


def read_mixbench(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read the subsets that the row lists as tasks.

    Raises:
        UserError: a file in another form, or qrels that name an unknown id.
    """
    tables: dict[str, list[Item]] = {}
    tasks, qrels = [], []
    for name in row.tasks:
        queries, corpus = (
            unique(list(read_items(folder / name / file)), folder / name / file)
            for file in ("queries.parquet", "mixed_corpus.parquet")
        )
        if not queries or not corpus:
            raise UserError(
                f"{folder / name}: {len(queries)} queries and {len(corpus)} documents, expected some of both"
            )
        path = folder / name / "qrels/qrels.tsv"
        for (query, candidate), score in read_qrels(path, HEADER).items():
            if query not in queries or candidate not in corpus:
                what = f"query '{query}'" if query not in queries else f"document '{candidate}'"
                raise UserError(f"{path}: {what} is in neither queries.parquet nor mixed_corpus.parquet")
            qrels.append(Qrel(name, query, candidate, score))
        tables |= {f"query_{name}": list(queries.values()), f"pool_{name}": list(corpus.values())}
        query_modality = next(iter(queries.values())).modality
        tasks.append(Task(name, query_modality, "image_text", f"query_{name}", {"local": [f"pool_{name}"]}))
    return Contents(tables, tasks, qrels)


READER = Reader(read_mixbench, Options)
