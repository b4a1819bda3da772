"""Turn fetched files into the canonical tables, so that no later stage knows where they came from.

In:  data/<data set>/ with fetched.json.
Out: a folder of tables, described in records.py and items.py. What can't be used is listed in rejects.csv;
     it is an error if its share is above the limit, which for benchmarks is nought unless their row says otherwise.
"""

import logging
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, unfinished
from gcl.common.progress import progress
from gcl.common.rows import from_json
from gcl.config.benchmarks import Benchmark, TaskFacts
from gcl.data.images import UPRIGHT, Examined, examined
from gcl.data.items import Contents, write_benchmark
from gcl.data.records import Pair, content_id, write_pairs, write_rejects
from gcl.data.textualise import read_captions, textualised
from gcl.prepare.benchmarks import reader_of
from gcl.prepare.benchmarks.own import Options as HeldOut
from gcl.prepare.hold_out import HELD_OUT, hold_out
from gcl.prepare.pairs import reader_of_pairs

log = logging.getLogger(__name__)


def usable(
    pairs: Iterable[Pair], limit: float, listing: Path, workers: int, work: Path
) -> tuple[list[Pair], dict[str, str]]:
    """Drop pairs without caption, with an unreadable image, or that occur twice; list them, refuse too many.

    Images are turned upright where their EXIF orientation says so.

    Args:
        pairs: in the order of which the first of a kind stays.
        limit: share of unusable pairs that is refused.
        listing: file to write.
        workers: threads that examine images.
        work: folder for what was found of many images, if the process is killed.

    Returns:
        The pairs that stay, and the sha256 of every image by its location.
    """
    kept: dict[str, Pair] = {}
    digests: dict[str, str] = {}
    rejects: list[tuple[str, str, str]] = []
    pairs = [pair._replace(texts=tuple(t.strip() for t in pair.texts if t.strip())) for pair in pairs]
    faults = [pair.fault or ("" if pair.texts else "no caption") for pair in pairs]
    locations = list(dict.fromkeys(pair.image for pair, fault in zip(pairs, faults, strict=True) if not fault))
    checked = progress(examined(locations, workers, work), "check images", "image", len(locations))
    images, total = dict(zip(locations, checked, strict=True)), len(pairs)
    for pair, fault in zip(pairs, faults, strict=True):
        image = Examined("", fault) if fault else images[pair.image]
        if not (reason := image.fault):
            pair = pair._replace(image=f"{pair.image}{UPRIGHT}") if image.is_turned else pair
            digests[pair.image] = image.sha256
            first = kept.setdefault(content_id(pair, digests), pair)
            reason = "" if first is pair else f"the same image and caption as {first.name}"
        if reason:
            rejects.append((pair.name, pair.image, reason))
    write_rejects(listing, rejects)
    repeated = sum("the same image and caption" in reason for *_, reason in rejects)
    unusable = len(rejects) - repeated
    if unusable > limit * total:
        first_bad = next(r for r in rejects if "the same image and caption" not in r[2])
        raise UserError(
            f"{unusable} of {total} pairs are unusable, more than reject_limit {limit:.1%} allows; "
            f"first: {first_bad[0]} ({first_bad[1]}): {first_bad[2]}"
        )
    if rejects:
        log.warning("%d pairs unusable, %d repeated, of %d: listed in rejects.csv", unusable, repeated, total)
    return list(kept.values()), digests


def prepare_pairs(
    data: Path,
    reader: str,
    limit: float,
    max_pairs: int | None,
    output: Path,
    held: HeldOut | None = None,
    workers: int = 1,
) -> None:
    """Write the training pairs of a data set, and those that are held out as a folder of their own, held_out/.

    Raises:
        UserError: no pair at all, too many unusable ones, or too few for what is held out.
    """
    read = reader_of_pairs(reader).read
    with unfinished(output) as work, atomic_path(output) as folder:
        folder.mkdir()
        pairs, digests = usable(islice(read(data), max_pairs), limit, folder / "rejects.csv", workers, work)
        if not pairs:
            raise UserError(f"{data} holds no usable pair")
        if held is not None:
            pairs, out = hold_out(pairs, digests, held.share, held.least)
            (folder / HELD_OUT).mkdir()
            log.info("%d pairs held out", write_pairs(folder / HELD_OUT, out, digests))
        log.info("%d pairs", write_pairs(folder, pairs, digests))


def prepare_benchmark(
    data: Path, images: Path, row: Benchmark, max_queries: int | None, workers: int, output: Path
) -> None:
    """Write the queries, pools and qrels of a benchmark.

    Raises:
        UserError: more unusable images than the row tolerates, a duplicate id, a qrel that points nowhere, or
            other numbers of queries and candidates than the row says.
    """
    contents = with_facts(reader_of(row.reader).read(data, images, row), row)
    check_counts(contents, row)
    if row.captions is not None:
        contents = textualised(contents, read_captions(Path(row.captions.file)), images, row.captions.keep_images)
    if max_queries is not None:
        contents = first_queries(contents, max_queries)
    locations = list({image: None for items in contents.tables.values() for item in items for image in item.images})
    with unfinished(output) as work:
        checked = progress(examined(locations, workers, work), "check images", "image", len(locations))
        examinations = dict(zip(locations, checked, strict=True))
        bad = {location: image.fault for location, image in examinations.items() if image.fault}
        digests = {location: image.sha256 for location, image in examinations.items() if not image.fault}
        unusable = len(bad) + len(contents.rejects)
        about = {"measures": row.measures, "title": row.title}
        with atomic_path(output) as folder:
            folder.mkdir()
            contents = without_images(contents, bad)
            if unusable > row.reject_limit * (len(locations) + unusable - len(bad)):
                write_rejects(listing := output.with_name(f"{output.name}.rejects.csv"), contents.rejects)
                raise UserError(too_many(contents.rejects, unusable, row.reject_limit, listing))
            write_rejects(folder / "rejects.csv", contents.rejects)
            write_benchmark(folder, contents, about, digests)
    if unusable:
        log.warning(
            "%d images unusable, listed in rejects.csv; %d queries count as misses", unusable, len(contents.missing)
        )
    if lying := sum(image.is_turned for image in examinations.values()):
        log.warning("%d images have an EXIF orientation, which is ignored, as the official loaders do", lying)
    sizes = len(contents.tasks), sum(map(len, contents.tables.values())), len(contents.qrels)
    log.info("%d tasks, %d items, %d qrels", *sizes)


def too_many(rejects: Iterable[tuple[str, str, str]], unusable: int, limit: float, listing: Path) -> str:
    """Say what is wrong with the first few of too many."""
    lines = [f"  {record} ({path}): {reason}" for record, path, reason in sorted(rejects)[:10]]
    head = f"{unusable} items of the benchmark are unusable, more than its reject_limit {limit:.1%} allows:"
    return "\n".join([head, *lines, f"all are listed in {listing}"])


def with_facts(contents: Contents, row: Benchmark) -> Contents:
    """Add to the tasks what the row says of them."""
    facts = {task.name: row.tasks.get(task.name, TaskFacts()) for task in contents.tasks}
    tasks = [
        task._replace(
            dataset=facts[task.name].dataset,
            groups=tuple(facts[task.name].groups),
            headline=facts[task.name].headline or row.headline,
        )
        for task in contents.tasks
    ]
    return contents._replace(tasks=tasks)


def check_counts(contents: Contents, row: Benchmark) -> None:
    """Compare the numbers of queries and candidates with what is known of the real data.

    Raises:
        UserError: they differ; a part of a benchmark is not comparable with the whole.
    """
    lengths: dict[tuple[str, str], set[int]] = {}
    for listed in contents.lists:
        lengths.setdefault((listed.task, listed.pool), set()).add(listed.repeats_included or len(listed.candidate_ids))
    problems = []
    for task in contents.tasks:
        facts = row.tasks.get(task.name, TaskFacts())
        unusable = sum(name == task.name for name, _ in contents.missing)
        queries = len(contents.tables[task.queries]) + unusable
        if facts.queries not in (None, queries):
            problems.append(f"{task.name} has {queries} queries, expected {facts.queries}")
        pool, tables = next(iter(task.pools.items()))
        size = sum(len(contents.tables[name]) + contents.lost.get(name, 0) for name in tables)
        sizes = lengths[task.name, pool] if pool in task.listed else {size}
        if facts.candidates is not None and sizes != {facts.candidates}:
            known = ", ".join(map(str, sorted(sizes)[:5]))
            problems.append(f"{task.name} has {known} candidates, expected {facts.candidates}")
    if problems:
        raise UserError(
            "\n".join(
                [*problems, "the data are not those that config/benchmarks.yaml describes; correct one of the two"]
            )
        )


def first_queries(contents: Contents, n: int) -> Contents:
    """Keep the first n queries of each table."""
    names = {task.queries for task in contents.tasks}
    tables = {name: items[:n] if name in names else items for name, items in contents.tables.items()}
    return only_queries(contents._replace(tables=tables, missing=[], clusters=contents.clusters[:n]))


def only_queries(contents: Contents) -> Contents:
    """Drop qrels, lists and exclusions of queries that are no longer there."""
    kept = {task.name: {item.item_id for item in contents.tables[task.queries]} for task in contents.tasks}
    return contents._replace(
        qrels=[q for q in contents.qrels if q.query_id in kept[q.task]],
        lists=[entry for entry in contents.lists if entry.query_id in kept[entry.task]],
        excluded=[e for e in contents.excluded if e.query_id in kept[e.task]],
    )


def without_images(contents: Contents, bad: dict[str, str]) -> Contents:
    """Take out items with unusable images: such a query is a miss, such a candidate is never found."""
    if not bad:
        return contents
    rejects, missing, gone = list(contents.rejects), list(contents.missing), set()
    tables = {}
    for name, items in contents.tables.items():
        reasons = {item.item_id: next((i for i in item.images if i in bad), None) for item in items}
        for item_id, image in reasons.items():
            if image is not None:
                rejects.append((f"{name} {item_id}", image, bad[image]))
                if task_names := [task.name for task in contents.tasks if task.queries == name]:
                    missing += [(task, item_id) for task in task_names]
                else:
                    gone.add(item_id)
        tables[name] = [item for item in items if reasons[item.item_id] is None]
    lists = [
        entry._replace(candidate_ids=[c for c in entry.candidate_ids if c not in gone]) for entry in contents.lists
    ]
    absent = contents.absent | frozenset(gone)
    whole = contents._replace(tables=tables, rejects=rejects, missing=missing, absent=absent, lists=lists)
    return only_queries(whole._replace(clusters=()) if missing else whole)  # queries are no longer in one order


def prepare(
    data: Path,
    images: Path | None,
    output: Path,
    reader: str | None,
    benchmark: Benchmark | None,
    reject_limit: float,
    max_pairs: int | None,
    max_queries: int | None,
    workers: int,
    held: HeldOut | None,
) -> None:
    """Prepare the pairs (reader) or the benchmark found in the folder `data`."""
    if (reader is None) == (benchmark is None):
        raise UserError("give either --reader, for training pairs, or --benchmark")
    if benchmark is not None:
        prepare_benchmark(data, images or data, benchmark, max_queries, max(1, workers), output)
    else:
        prepare_pairs(data, reader or "", reject_limit, max_pairs, output, held, max(1, workers))


def main() -> None:
    """Run from the command line."""
    options = parser("prepare", __doc__, "--data data/openclipart --reader pictures --output prepared")
    options.add_argument("--data", required=True, type=Path, help="folder of a fetched data set")
    options.add_argument("--images", type=Path, help="folder of a benchmark's images, if not that of its data")
    options.add_argument("--output", required=True, type=Path, help="folder to write")
    options.add_argument("--reader", help="for training pairs: a module of prepare/pairs/")
    options.add_argument("--benchmark", type=from_json(Benchmark), help="for a benchmark: its row as JSON")
    options.add_argument("--reject-limit", type=float, default=0.01, help="largest share of unusable pairs")
    options.add_argument("--max-pairs", type=int, help="keep the first so many pairs")
    options.add_argument(
        "--hold-out", dest="held", type=from_json(HeldOut), help="pairs that are measured on: options of `own` as JSON"
    )
    options.add_argument("--max-queries", type=int, help="keep the first so many queries of each table")
    options.add_argument("--workers", type=int, default=1, help="threads that check images (1)")
    run(options, prepare)
