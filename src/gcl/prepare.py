"""Turn fetched files into the canonical tables, so that no later stage knows where they came from.

In:  data/<data set>/ with fetched.json.
Out: a folder of tables, described in records.py. Unreadable images are listed in rejects.csv: they stop
     a benchmark, and training pairs if their share is above the limit.
"""

import hashlib
import logging
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from gcl.benchmarks import READERS as BENCHMARK_READERS
from gcl.command import parser, run
from gcl.config import Benchmark, from_json
from gcl.files import atomic_path
from gcl.images import decode, read_bytes
from gcl.pairs import READERS as PAIR_READERS
from gcl.progress import progress
from gcl.records import Pair, Qrel, Task, content_id, write_benchmark, write_pairs, write_rejects
from gcl.registry import lookup

log = logging.getLogger(__name__)


def examine(location: str) -> tuple[str, str]:
    """Decode an image; return the sha256 of its bytes, or what is wrong with it."""
    try:
        data = read_bytes(location)
        decode(data, location)
    except (OSError, ValueError) as error:
        return "", str(error)
    return hashlib.sha256(data).hexdigest(), ""


def usable(pairs: Iterable[Pair], limit: float, listing: Path) -> tuple[list[Pair], dict[str, str]]:
    """Drop pairs without caption, with an unreadable image, or that occur twice; list them, refuse too many.

    Returns:
        The pairs that stay, and the sha256 of every image by its location.
    """
    kept: dict[str, Pair] = {}
    digests: dict[str, str] = {}
    rejects: list[tuple[str, str, str]] = []
    total = 0
    for pair in progress(pairs, "check images", "image"):
        total += 1
        pair = pair._replace(texts=tuple(t.strip() for t in pair.texts if t.strip()))
        digest, reason = ("", "no caption") if not pair.texts else examine(pair.image)
        if not reason:
            digests[pair.image] = digest
            first = kept.setdefault(content_id(pair, digests), pair)
            reason = "" if first is pair else f"the same image and caption as {first.name}"
        if reason:
            rejects.append((pair.name, pair.image, reason))
    write_rejects(listing, rejects)
    repeated = sum("the same image and caption" in reason for *_, reason in rejects)
    unusable = len(rejects) - repeated
    if unusable > limit * total:
        first_bad = next(r for r in rejects if "the same image and caption" not in r[2])
        raise ValueError(
            f"{unusable} of {total} pairs are unusable, more than reject_limit {limit:.1%} allows; "
            f"first: {first_bad[0]} ({first_bad[1]}): {first_bad[2]}"
        )
    if rejects:
        log.warning("%d pairs unusable, %d repeated, of %d: listed in rejects.csv", unusable, repeated, total)
    return list(kept.values()), digests


def prepare_pairs(data: Path, reader: str, limit: float, max_pairs: int | None, output: Path) -> None:
    """Write the training pairs of a data set.

    Raises:
        ValueError: no pair at all, or too many unusable ones.
    """
    read = lookup(PAIR_READERS, reader, "reader of pairs", "src/gcl/pairs.py")
    with atomic_path(output) as folder:
        folder.mkdir()
        pairs, digests = usable(islice(read(data), max_pairs), limit, folder / "rejects.csv")
        if not pairs:
            raise ValueError(f"{data} holds no usable pair")
        log.info("%d pairs", write_pairs(folder, pairs, digests))


def prepare_benchmark(data: Path, benchmark: Benchmark, max_queries: int | None, output: Path) -> None:
    """Write the queries, pools and qrels of a benchmark.

    Raises:
        ValueError: an unreadable image, a duplicate id, or a qrel that points nowhere.
    """
    read = lookup(BENCHMARK_READERS, benchmark.reader, "benchmark reader", "src/gcl/benchmarks/__init__.py")
    tables, tasks, qrels = read(data, benchmark.split)
    if max_queries is not None:
        qrels = first_queries(tables, tasks, qrels, max_queries)
    images = {image: None for items in tables.values() for item in items for image in item.images}
    found = {image: examine(image) for image in progress(images, "check images", "image")}
    if problems := [reason for _, reason in found.values() if reason]:
        raise ValueError("\n".join([f"{len(problems)} images of the benchmark are unreadable:", *problems[:20]]))
    about = {"measures": benchmark.measures, "title": benchmark.title}
    with atomic_path(output) as folder:
        folder.mkdir()
        write_benchmark(folder, tables, tasks, qrels, about, {image: digest for image, (digest, _) in found.items()})
    log.info("%d tasks, %d items, %d qrels", len(tasks), sum(map(len, tables.values())), len(qrels))


def first_queries(tables: dict, tasks: list[Task], qrels: list[Qrel], n: int) -> list[Qrel]:  # type: ignore[type-arg]
    """Cut the query tables to their first n rows, in place; return the qrels that stay."""
    for name in {task.queries for task in tasks}:
        tables[name] = tables[name][:n]
    kept = {task.name: {item.item_id for item in tables[task.queries]} for task in tasks}
    return [qrel for qrel in qrels if qrel.query_id in kept[qrel.task]]


def prepare(
    data: Path,
    output: Path,
    reader: str | None,
    benchmark: Benchmark | None,
    reject_limit: float,
    max_pairs: int | None,
    max_queries: int | None,
) -> None:
    """Prepare the pairs (reader) or the benchmark found in the folder `data`."""
    if (reader is None) == (benchmark is None):
        raise ValueError("give either --reader, for training pairs, or --benchmark")
    if benchmark is not None:
        prepare_benchmark(data, benchmark, max_queries, output)
    else:
        prepare_pairs(data, reader or "", reject_limit, max_pairs, output)


def main() -> None:
    """Run from the command line."""
    made = parser("prepare", __doc__, "--data data/openclipart --reader pictures --output data/prepared/openclipart")
    made.add_argument("--data", required=True, type=Path, help="folder of a fetched data set")
    made.add_argument("--output", required=True, type=Path, help="folder to write")
    made.add_argument("--reader", help="for training pairs: a key of pairs.READERS")
    made.add_argument("--benchmark", type=from_json(Benchmark), help="for a benchmark: its row as JSON")
    made.add_argument("--reject-limit", type=float, default=0.01, help="largest share of unusable pairs")
    made.add_argument("--max-pairs", type=int, help="keep the first so many pairs")
    made.add_argument("--max-queries", type=int, help="keep the first so many queries of each table")
    run(made, prepare)


if __name__ == "__main__":
    main()
