"""WebVid-CoVR (arXiv 2308.14746): a video and a change, and the video that has it.

A query is the middle frame of a video with the text of the change. A candidate is the target video of some row: its
frames, pooled. A query's own video is left out of its ranking where it is another row's target. Videos that can't be
had are listed; the row's reject_limit says how many are tolerated. Their queries stay in the denominator, as misses.
"""

import csv
import io
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.progress import progress
from gcl.common.rows import STRICT, Count, parse
from gcl.config.benchmarks import Benchmark
from gcl.data.annotations import clean_edit, read_text
from gcl.data.items import Contents, Excluded, Item, Qrel, Task
from gcl.data.videos import count_frames, spread_frames
from gcl.prepare.benchmarks import Reader

log = logging.getLogger(__name__)

TEMPERATURE = 0.1  # of the weights of frames
MAX_SCORE = 1e6  # they are cosines
COLUMNS = ("pth1", "pth2", "edit", "scores")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """The protocol of WebVid-CoVR."""

    annotations: str  # the CSV file
    pooling: Literal["mean", "middle", "scores"] = "mean"
    frames: Count = 15  # of a target, at most
    bgr_targets: bool = False  # swap red and blue in targets, as the published embeddings have it


def read_triplets(path: Path) -> list[dict[str, str]]:
    """Read the CSV file, by the names of its columns.

    Raises:
        UserError: a column is missing, a cell empty, or a target stands in two rows.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))  # a cell may hold line breaks
    numbered = [(reader.line_num, row) for row in reader]
    rows = [row for _, row in numbered]
    if not rows or (lacking := [name for name in COLUMNS[:3] if name not in rows[0]]):
        raise UserError(f"{path} has no rows, or no column {', '.join(lacking) if rows else COLUMNS}")
    targets: dict[str, int] = {}
    for number, row in numbered:
        if empty := [name for name in COLUMNS[:3] if not (row[name] or "").strip()]:
            raise UserError(f"{path}:{number}: '{empty[0]}' is empty")
        if ".." in row["pth1"] + row["pth2"] or row["pth1"].startswith("/") or row["pth2"].startswith("/"):
            raise UserError(f"{path}:{number}: a video's name leaves the folder of videos")
        if row["pth2"] in targets:
            raise UserError(f"{path}:{number}: target '{row['pth2']}' stands in line {targets[row['pth2']]} already")
        targets[row["pth2"]] = number
    return rows


def frame_weights(scores: str, frames: int) -> tuple[float, ...]:
    """Return the softmax of a row's scores; equal weights if there are none, or not one per frame."""
    try:
        values = json.loads(scores or "[]")
    except json.JSONDecodeError as error:
        raise UserError(f"scores {scores[:60]!r} are no list of numbers: {error}") from error
    if not isinstance(values, list) or not all(isinstance(x, int | float) and abs(x) < MAX_SCORE for x in values):
        raise UserError(f"scores {scores[:60]!r} are no list of numbers")
    if len(values) != frames:
        return ()
    powers = np.exp((np.array(values, np.float64) - max(values)) / TEMPERATURE)
    return tuple((powers / powers.sum()).tolist())


def target_images(video: Path, count: int, scores: str, options: Options) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the frames that make up a target, and their weights."""
    n = len(spread_frames(count, options.frames))
    end = "/bgr" if options.bgr_targets else ""
    frames = tuple(f"{video}::{i}/{options.frames}{end}" for i in range(n))
    if options.pooling == "middle":
        return frames[n // 2 : n // 2 + 1], ()
    return frames, frame_weights(scores, n) if options.pooling == "scores" else ()


def frame_counts(videos: list[Path]) -> dict[Path, int | str]:
    """Return the number of frames of every video, or what is wrong with it."""

    def count(video: Path) -> int | str:
        try:
            return count_frames(video)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        counts = progress(pool.map(count, videos), "open videos", "video", len(videos))
        return dict(zip(videos, counts, strict=True))


def read_covr(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read the triplets of one split.

    Raises:
        UserError: a row in another form, named by line.
    """
    options = parse(Options, row.options, "options")
    path = folder / options.annotations
    triplets = read_triplets(path)
    videos = {name: images / f"{name}.mp4" for t in triplets for name in (t["pth1"], t["pth2"])}
    counts = frame_counts(list(videos.values()))
    dead = {name: video for name, video in videos.items() if isinstance(counts[video], str)}
    rejects = [(name, str(video), str(counts[video])) for name, video in dead.items()]
    queries, pool, qrels, excluded, missing = [], [], [], [], []
    targets = {t["pth2"] for t in triplets}
    unweighted = 0
    for triplet in triplets:
        reference, target = triplet["pth1"], triplet["pth2"]
        query = f"q/{target}"
        count = counts[videos[target]]
        if isinstance(count, int):
            frames, weights = target_images(videos[target], count, triplet.get("scores") or "", options)
            unweighted += options.pooling == "scores" and not weights
            pool.append(Item(target, None, frames, weights))
        if reference in dead:
            missing.append(("covr", query))
            continue
        queries.append(Item(query, clean_edit(triplet["edit"]), (f"{videos[reference]}::middle",)))
        qrels.append(Qrel("covr", query, target))
        if reference in targets and reference != target:
            excluded.append(Excluded("covr", query, [reference]))
    if unweighted:
        log.warning("%d targets have no score per frame: their frames weigh alike", unweighted)
    task = Task("covr", "image_text", "image", "query", {"all": ["pool"]})
    lost = {"pool": len(triplets) - len(pool)}
    tables = {"query": queries, "pool": pool}
    return Contents(tables, [task], qrels, [], excluded, frozenset(dead), missing, rejects, lost)


READER = Reader(read_covr, Options)
