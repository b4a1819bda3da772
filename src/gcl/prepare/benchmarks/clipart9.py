"""clipart9: nine tasks, every query to every candidate modality, on held-out subjects of Open Clip Art (and of emoji).

A query is one picture of a subject, its title, or both. Its relevant candidates are the other pictures
of the subject, as picture, as text (keywords and description, without the title), or both. Ids follow
M-BEIR's form, <data set>:<number>. The local pool holds candidates of one modality, the global pool all.
"""

from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic.dataclasses import dataclass

from gcl.common.arrays import MODALITIES, SHORT
from gcl.common.errors import UserError
from gcl.common.rows import STRICT, Count, parse
from gcl.config.benchmarks import Benchmark
from gcl.data.items import Contents, Item, Qrel, Task
from gcl.data.records import read_parquet
from gcl.prepare.benchmarks import Reader
from gcl.prepare.pairs.pictures import description_of


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """clipart9 has one protocol."""

    dataset_id: Count = 10  # before every id; M-BEIR's own data sets are 0..9


def read_clipart9(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read one split. The first picture by id is the query, so the choice is random but fixed.

    Raises:
        UserError: the split has no subject.
    """
    path, split = images / "pictures.parquet", row.split
    options = parse(Options, row.options, "options")
    columns = ["picture_id", "split", "subject", "title", "keywords", "description"]
    columns += ["family"] if has_families(path) else []
    rows = [picture for picture in read_parquet(path, columns).to_pylist() if picture["split"] == split]
    if not rows:
        raise UserError(f"{path} has no split '{split}'")
    tables: dict[str, list[Item]] = {f"{kind}_{m}": [] for kind in ("query", "pool") for m in MODALITIES}
    qrels: list[Qrel] = []
    tasks = [nine for q in MODALITIES for c in MODALITIES for nine in [task(q, c)]]
    number, families = 0, []
    for query_number, (_, group) in enumerate(groupby(rows, lambda picture: picture["subject"]), 1):
        query, *others = group
        families.append(query.get("family"))
        add(tables, "query", options.dataset_id, query_number, f"{path}::{query['picture_id']}", query["title"])
        for other in others:
            number += 1
            add(tables, "pool", options.dataset_id, number, f"{path}::{other['picture_id']}", description_of(other))
            qrels += [
                Qrel(
                    t.name,
                    item_id(options.dataset_id, t.query_modality, query_number),
                    item_id(options.dataset_id, t.candidate_modality, number),
                )
                for t in tasks
            ]
    names = {name: cluster for cluster, name in enumerate(dict.fromkeys(families))}
    return Contents(tables, tasks, qrels, clusters=[names[f] for f in families] if None not in names else ())


def has_families(path: Path) -> bool:
    """Tell whether subjects are gathered in families; a file that can't be read is left to read_parquet."""
    try:
        return "family" in pq.read_schema(path).names
    except (OSError, pa.ArrowException):
        return False


def task(query: str, candidate: str) -> Task:
    """Make the task of a modality pair."""
    pools = {"local": [f"pool_{candidate}"], "global": [f"pool_{m}" for m in MODALITIES]}
    return Task(f"{SHORT[query]}_{SHORT[candidate]}", query, candidate, f"query_{query}", pools)


def item_id(dataset_id: int, modality: str, number: int) -> str:
    """Number the three forms of a picture apart: 3k+1 image, 3k+2 text, 3k+3 both."""
    return f"{dataset_id}:{3 * (number - 1) + MODALITIES.index(modality) + 1}"


def add(tables: dict[str, list[Item]], kind: str, dataset_id: int, number: int, image: str, text: str) -> None:
    """Add a picture in its three forms."""
    for modality in MODALITIES:
        images = (image,) if modality != "text" else ()
        shown_text = text if modality != "image" else None
        tables[f"{kind}_{modality}"].append(Item(item_id(dataset_id, modality, number), shown_text, images))


READER = Reader(read_clipart9, Options)
