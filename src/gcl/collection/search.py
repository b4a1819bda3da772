"""Search an index by texts, images, or both: all modalities in one list, exactly, with a cut-off that means "no match".

In:  an index (`gcl index`); texts and images, each with a weight if it has one: `2:snow`.
Out: the best items with their scores: z-scores where the model has a calibration (how many deviations above what
     unrelated items have), else cosines. --min-score drops what lies below.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gcl.collection.embedder import CALIBRATED, Embedder, Term, model_hash
from gcl.collection.pareto import pareto_set, parts_of
from gcl.collection.store import About, Index, open_index, open_table
from gcl.common.arrays import MODALITIES, Floats
from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.retrieve.exact import BLOCK, Pool, Query
from gcl.retrieve.search import best_rows

WEIGHT = re.compile(r"(\d+(?:\.\d+)?):(.+)", re.DOTALL)
WIDEST = 60  # characters of a text that are printed
UNWANTED = -1e30  # in place of the offset of scores of a modality that is not asked for


class Hit(NamedTuple):
    """A found item."""

    score: float
    id: str
    modality: str
    path: str  # location of its image; "" for none
    text: str
    row: int  # in the index


def term_of(value: str, is_image: bool | None = None, sign: float = 1.0) -> Term:
    """Read a part of a query, `text` or `weight:text`; where neither kind is said, what names a file is an image.

    Raises:
        UserError: it is empty.
    """
    match = WEIGHT.fullmatch(value)
    weight, body = (float(match[1]), match[2].strip()) if match else (1.0, value.strip())
    if not body:
        raise UserError(f"a part of the query is empty: {value!r}")
    is_image = Path(body).is_file() if is_image is None else is_image
    return Term(sign * weight, None, body) if is_image else Term(sign * weight, body)


def search_index(
    index: Index, query: Query, k: int, modalities: list[str] | None = None, min_score: float | None = None
) -> list[Hit]:
    """Return the k best items of an index, exactly.

    Args:
        index: an open one.
        query: one query, of Embedder.query.
        k: 1 <= k.
        modalities: of the items that are wanted; none: all.
        min_score: what lies below is no match.

    Raises:
        UserError: k below 1.
    """
    if k < 1:
        raise UserError(f"-k is {k}, expected 1 or more")
    wanted = [MODALITIES.index(m) for m in modalities or MODALITIES]
    if not (there := int(np.isin(index.modalities, wanted).sum())):
        return []

    def vectors_of(rows: Any) -> Floats:
        return np.asarray(index.vectors[rows])

    # Others stay in the pool, so that its copy in 8 bits serves too, and come after all that are wanted.
    query = query._replace(offsets=np.where(np.isin(range(len(MODALITIES)), wanted), query.offsets, UNWANTED))
    pool = Pool(len(index.modalities), vectors_of, index.modalities, index.rounded)
    scores, rows = best_rows([query], pool, min(k, there), "cpu")
    pairs = zip(scores[0].tolist(), rows[0].tolist(), strict=True)
    return hits_of(index, [(score, row) for score, row in pairs if min_score is None or score >= min_score])


def search_each(
    index: Index, queries: list[Query], k: int, modalities: list[str] | None, min_score: float | None
) -> list[Hit]:
    """Return at most k items that no other beats in all of several queries; the score is the mean over the queries.

    Raises:
        UserError: k below 1.
    """
    if k < 1:
        raise UserError(f"-k is {k}, expected 1 or more")
    rows = np.flatnonzero(np.isin(index.modalities, [MODALITIES.index(m) for m in modalities or MODALITIES]))
    if not len(rows):
        return []
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    scores = np.concatenate(
        [
            np.stack([q.scores(np.asarray(index.vectors[some]), index.modalities[some])[0] for q in queries], 1)
            for some in blocks
        ]
    )
    means = scores.mean(1)
    pairs = [(float(means[row]), int(rows[row])) for row in pareto_set(scores).tolist()]
    return hits_of(index, [(score, row) for score, row in pairs if min_score is None or score >= min_score][:k])


def approximate(index: Index, query: Query, k: int, modalities: list[str] | None, min_score: float | None) -> list[Hit]:
    """Return about the k best by LanceDB's index, which is made on first use; each modality is asked for alone.

    Raises:
        UserError: fewer items than LanceDB's index needs, or several vectors an item.
    """
    if query.late > 1:
        raise UserError(f"--approximate compares one vector an item; this model has {query.late}: leave it out")
    table = open_table(index.folder)
    if not table.list_indices():
        try:
            table.create_index(metric="dot", vector_column_name="vector", index_type="IVF_PQ")
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{index.folder}: LanceDB makes no index ({str(error).splitlines()[0]})") from error
    places = {name: row for row, name in enumerate(index.items["id"].to_pylist())}
    hits: list[tuple[float, int]] = []
    for modality in modalities or MODALITIES:
        request = table.search(query.vectors[0]).distance_type("dot").where(f"modality = '{modality}'", prefilter=True)
        answer = request.limit(k).refine_factor(10).nprobes(50).select(["id", "_distance"]).to_arrow()
        rows = np.array([places[name] for name in answer["id"].to_pylist() if name in places], np.int64)
        if len(rows):
            scores = query.scores(np.asarray(index.vectors[rows]), index.modalities[rows])[0]
            hits += zip(scores.tolist(), rows.tolist(), strict=True)
    best = sorted(hits, key=lambda hit: (-hit[0], hit[1]))[:k]
    return hits_of(index, [(score, row) for score, row in best if min_score is None or score >= min_score])


def hits_of(index: Index, scored: list[tuple[float, int]]) -> list[Hit]:
    """Return what there is to show of rows and their scores."""
    rows = index.items.take(pa.array([row for _, row in scored], pa.int64())).to_pylist()
    return [Hit(score, row=number, **row) for (score, number), row in zip(scored, rows, strict=True)]


def open_embedder(index: Index, model: Path | None, device: str, graphs: list[str]) -> Embedder:
    """Open the model that an index was made with, wherever it lies now.

    Raises:
        UserError: it is gone, or another one lies there.
    """
    about: About = index.about
    folder = model or Path(about.model)
    if not folder.exists():
        raise UserError(f"{index.folder} was made with the model {folder}, which is gone; say where it is by --model")
    if model_hash(folder, index.folder / "model.json") != about.sha256:
        raise UserError(
            f"{folder} is another model than the one that {index.folder} was made with; make the index anew with "
            "it, or give the other by --model"
        )
    return Embedder(folder, device, graphs)


def graphs_of(terms: list[Term]) -> list[str]:
    """Return the modalities that a query's terms need embedded."""
    needs = any(term.image is not None for term in terms), any(term.text is not None for term in terms)
    return [m for m, is_needed in zip(MODALITIES, (*needs, all(needs)), strict=True) if is_needed]


def shown(hit: Hit) -> str:
    """Return the line that is printed of an item."""
    text = re.sub(r"\s+", " ", hit.text)
    text = f"{text[: WIDEST - 1]}…" if len(text) > WIDEST else text
    return f"{hit.score:7.3f}  {hit.modality:10}  {hit.id}" + (f"  {text}" if text else "")


def search(
    folder: Path, texts: list[str], images: list[str], minus: list[str], modalities: list[str] | None, k: int,
    min_score: float | None, form: str | None, is_approximate: bool, is_each: bool, model: Path | None, device: str,
) -> dict[str, Any] | None:  # fmt: skip
    """Search an index and print what is found.

    Raises:
        UserError: an empty query, no such index, or another model's.
    """
    texts = [part for text in texts for part in parts_of(text)] if is_each else texts
    terms = [term_of(value, False) for value in texts] + [term_of(value, True) for value in images]
    terms += [term_of(value, sign=-1.0) for value in minus]
    if not terms:
        raise UserError("the query is empty: give --text, --image, or both")
    index = open_index(folder)
    if min_score is not None and index.about.mode != CALIBRATED:
        raise UserError(
            "--min-score is a z-score, and this index's model has no calibration; `gcl bundle --calibration` adds it"
        )
    if is_each and (minus or is_approximate):
        raise UserError("--each looks for every part exactly: it goes with neither --minus nor --approximate")
    embedder = open_embedder(index, model, device, graphs_of(terms))
    if is_each:
        hits = search_each(index, [embedder.query([term]) for term in terms], k, modalities, min_score)
    else:
        hits = (approximate if is_approximate else search_index)(index, embedder.query(terms), k, modalities, min_score)
    if form == "json":
        print(json.dumps([hit._asdict() for hit in hits], indent=1, ensure_ascii=False))
    elif form == "paths":
        print("".join(f"{hit.path or hit.id}\n" for hit in hits), end="")
    else:
        print("".join(f"{shown(hit)}\n" for hit in hits), end="")
    if not hits:
        print("no match" if len(index.items) else f"{folder} holds no items", file=sys.stderr)
    return {"found": len(hits)}


def main() -> None:
    """Run from the command line."""
    options = parser("search", __doc__, "photos.index --text '2:snow' --minus night --modality image -k 5")
    options.add_argument("folder", type=Path, metavar="INDEX", help="folder that `index` wrote")
    options.add_argument(
        "--text", dest="texts", action="append", default=[], metavar="[W:]T", help="text, with a weight"
    )
    options.add_argument("--image", dest="images", action="append", default=[], metavar="[W:]FILE", help="picture")
    options.add_argument(
        "--minus", action="append", default=[], metavar="[W:]T|FILE", help="text or picture to take away"
    )
    options.add_argument(
        "--modality", dest="modalities", action="append", choices=MODALITIES, help="of what is wanted (all)"
    )
    options.add_argument("-k", type=int, default=10, help="items at most (10)")
    options.add_argument("--min-score", type=float, metavar="Z", help="z-score below which an item is no match")
    options.add_argument("--json", dest="form", action="store_const", const="json", help="print JSON")
    options.add_argument("--paths", dest="form", action="store_const", const="paths", help="print paths alone")
    options.add_argument(
        "--approximate", dest="is_approximate", action="store_true", help="by LanceDB's index, not exactly"
    )
    options.add_argument(
        "--each", dest="is_each", action="store_true",
        help="every picture, and every part of a text between commas or `and`, by itself: what nothing beats in all",
    )  # fmt: skip
    options.add_argument("--model", type=Path, help="where the model is now, if not where it was")
    options.add_argument("--device", default="cpu", choices=["auto", "cpu", "cuda"], help="of the model (cpu)")
    run(options, search)


if __name__ == "__main__":
    main()
