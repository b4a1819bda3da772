"""The pairs of the config themselves: a share is held out of training, and asked for in every way that pairs allow.

A query stands for a group of held-out pairs that have an image or a caption in common; relevant are the group's
candidates. Where an image or a text would be looked for by itself, there must be a second view of it: another caption
(or keywords) that neither holds nor is held by the first, and a part of the image. So pairs with one caption allow
text > image and image > text; with a second view of both, all nine tasks.

The global pool holds candidates of all modalities. What a query's own image or text would find is left out of its
ranking there, since that is no retrieval.
"""

import logging
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from pydantic.dataclasses import dataclass

from gcl.common.arrays import MODALITIES, SHORT
from gcl.common.rows import STRICT, Count, Share, parse
from gcl.config.benchmarks import Benchmark
from gcl.data.images import PART
from gcl.data.items import Contents, Excluded, Item, Qrel, Task
from gcl.data.records import read_parquet
from gcl.prepare.benchmarks import Reader
from gcl.prepare.hold_out import groups

log = logging.getLogger(__name__)

PERCENT = 40  # of each side of an image, that a query sees


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """What is held out, and which second views there are."""

    share: Share = 0.1  # of the pairs that is held out
    least: Count = 100  # pairs are held out
    crop: bool = True  # queries see a part of an image; else no image is looked for by an image
    second_caption: bool = True  # a second caption is a candidate, the first a query


class Views(NamedTuple):
    """A held-out pair as a query sees it, and as a candidate."""

    pair_id: str
    image: str  # location
    image_row: int
    query_text: str
    text: str


def read_own(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read the pairs that `prepare` held out."""
    options = parse(Options, row.options, "options")
    pairs = read_views(folder, options.second_caption)
    has_second = any(pair.query_text != pair.text for pair in pairs)
    seconds = {"image": options.crop, "text": has_second}
    directions = [(q, c) for q in MODALITIES for c in MODALITIES if is_allowed(q, c, seconds)]
    pair_groups = groups([pair.image_row for pair in pairs], [pair.query_text for pair in pairs])
    pools = {c: candidates(pairs, c) for c in dict.fromkeys(c for _, c in directions)}
    tables = {f"query_{q}": [query(pairs[rows[0]], q, options.crop) for rows in pair_groups] for q, _ in directions}
    tables |= {f"pool_{c}": list(items.values()) for c, items in pools.items()}
    tasks, qrels, excluded = [], [], []
    for q, c in directions:
        name = f"{SHORT[q]}_{SHORT[c]}"
        tasks.append(Task(name, q, c, f"query_{q}", {"local": [f"pool_{c}"], "global": [f"pool_{m}" for m in pools]}))
        for rows in pair_groups:
            query_id = f"q{SHORT[q]}:{pairs[rows[0]].pair_id}"
            ids = {m: list(dict.fromkeys(pools[m][content_of(pairs[r], m)].item_id for r in rows)) for m in pools}
            qrels += [Qrel(name, query_id, candidate) for candidate in ids[c]]
            if own := [candidate for m in pools if (q, m) not in directions for candidate in ids[m]]:
                excluded.append(Excluded(name, query_id, own))
    log.info("%d pairs held out, %d queries, %d tasks", len(pairs), len(pair_groups), len(tasks))
    return Contents(tables, tasks, qrels, [], excluded)


def read_views(folder: Path, wants_second: bool) -> list[Views]:
    """Read the pairs; where most have a second caption, those that have none are left out."""
    locations = read_parquet(folder / "locations.parquet")["location"].to_pylist()
    texts = read_parquet(folder / "texts.parquet")["text"].to_pylist()
    all_views = []
    for pair in read_parquet(folder / "pairs.parquet").to_pylist():
        captions = [texts[row] for row in pair["text_rows"]]
        all_views.append(
            (pair["pair_id"], pair["image_row"], captions[0], second_view(captions) if wants_second else None)
        )
    seconded = sum(views is not None for *_, views in all_views)
    needs_second = 2 * seconded >= len(all_views)
    if needs_second and seconded < len(all_views):
        log.warning(
            "%d of %d held-out pairs have no second caption and are left out", len(all_views) - seconded, len(all_views)
        )
    return [
        Views(pair_id, locations[row], row, *(views if needs_second and views else (caption, caption)))
        for pair_id, row, caption, views in all_views
        if views or not needs_second
    ]


def second_view(captions: list[str]) -> tuple[str, str] | None:
    """Return the first two captions of which neither holds the other, None where there are none."""
    for one, other in combinations(captions, 2):
        a, b = one.casefold(), other.casefold()
        if a not in b and b not in a:
            return one, other
    return None


def is_allowed(query: str, candidate: str, seconds: dict[str, bool]) -> bool:
    """Tell whether a query of a modality may look for another: what both have needs a second view."""
    shared = set(query.split("_")) & set(candidate.split("_"))
    return all(seconds[modality] for modality in shared)


def query(pair: Views, modality: str, crop: bool) -> Item:
    """Make the query of a modality."""
    place = f"{pair.image}{PART}{box_of(pair.pair_id)}" if crop else pair.image
    return Item(
        f"q{SHORT[modality]}:{pair.pair_id}",
        pair.query_text if modality != "image" else None,
        (place,) if modality != "text" else (),
    )


def box_of(pair_id: str) -> str:
    """Return the part that a query sees, left/top/width/height in percent, at a place that the pair's content says."""
    number = int(pair_id, 16)
    left, top = number % (101 - PERCENT), number // 101 % (101 - PERCENT)
    return f"{left}/{top}/{PERCENT}/{PERCENT}"


def content_of(pair: Views, modality: str) -> tuple[int | None, str | None]:
    """Return the content of a candidate, by which equal ones are one."""
    return (pair.image_row if modality != "text" else None), (pair.text if modality != "image" else None)


def candidates(pairs: list[Views], modality: str) -> dict[tuple[int | None, str | None], Item]:
    """Make the distinct candidates of a modality, by their content."""
    distinct: dict[tuple[int | None, str | None], Item] = {}
    for pair in pairs:
        row, text = content = content_of(pair, modality)
        images = () if row is None else (pair.image,)
        distinct.setdefault(content, Item(f"{SHORT[modality]}:{pair.pair_id}", text, images))
    return distinct


READER = Reader(read_own, Options)
