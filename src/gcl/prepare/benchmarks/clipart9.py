"""clipart9: all nine query > candidate modality pairs on held-out subjects of Open Clip Art.

A query is one picture of a subject, its title, or both. Its relevant candidates are the other pictures
of the subject, as picture, as text (keywords and description, without the title), or both. Ids follow
M-BEIR's form, <data set>:<number>. The local pool holds candidates of one modality, the global pool all.
"""

from itertools import groupby
from pathlib import Path

from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.rows import STRICT
from gcl.config.benchmarks import Benchmark
from gcl.data.items import Contents, Item, Qrel, Task
from gcl.data.records import read_parquet
from gcl.prepare.benchmarks import Reader
from gcl.prepare.pairs.pictures import description_of

MODALITIES = ("image", "text", "image_text")
SHORT = {"image": "i", "text": "t", "image_text": "it"}
DATASET_ID = 10  # M-BEIR's own data sets are 0..9


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """clipart9 has one protocol."""


def read_clipart9(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read one split. The first picture by id is the query, so the choice is random but fixed.

    Raises:
        UserError: the split has no subject.
    """
    path, split = images / "pictures.parquet", row.split
    columns = ["picture_id", "split", "subject", "title", "keywords", "description"]
    rows = [found for found in read_parquet(path, columns).to_pylist() if found["split"] == split]
    if not rows:
        raise UserError(f"{path} has no split '{split}'")
    tables: dict[str, list[Item]] = {f"{kind}_{m}": [] for kind in ("query", "pool") for m in MODALITIES}
    qrels: list[Qrel] = []
    tasks = [nine for q in MODALITIES for c in MODALITIES for nine in [task(q, c)]]
    number = 0
    for query_number, (_, group) in enumerate(groupby(rows, lambda found: found["subject"]), 1):
        query, *others = group
        add(tables, "query", query_number, f"{path}::{query['picture_id']}", query["title"])
        for other in others:
            number += 1
            add(tables, "pool", number, f"{path}::{other['picture_id']}", description_of(other))
            qrels += [
                Qrel(t.name, item_id(t.query_modality, query_number), item_id(t.candidate_modality, number))
                for t in tasks
            ]
    return Contents(tables, tasks, qrels)


def task(query: str, candidate: str) -> Task:
    """Make the task of a modality pair."""
    pools = {"local": [f"pool_{candidate}"], "global": [f"pool_{m}" for m in MODALITIES]}
    return Task(f"{SHORT[query]}_{SHORT[candidate]}", query, candidate, f"query_{query}", pools)


def item_id(modality: str, number: int) -> str:
    """Number the three forms of a picture apart: 3k+1 image, 3k+2 text, 3k+3 both."""
    return f"{DATASET_ID}:{3 * (number - 1) + MODALITIES.index(modality) + 1}"


def add(tables: dict[str, list[Item]], kind: str, number: int, image: str, text: str) -> None:
    """Add a picture in its three forms."""
    for modality in MODALITIES:
        images = (image,) if modality != "text" else ()
        shown_text = text if modality != "image" else None
        tables[f"{kind}_{modality}"].append(Item(item_id(modality, number), shown_text, images))


READER = Reader(read_clipart9, Options)
