"""Write the files that the evaluation servers of benchmarks with hidden labels take.

In:  a run (Parquet) and the prepared benchmark.
Out: a folder with the JSON files to upload, one set for each seed and calibration of the run:
     CIRR   recall.*.json, the first 50 of the split; recall_subset.*.json, the first 3 of each query's own set
     CIRCO  circo.*.json, the first 50
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.common.names import lookup
from gcl.data.prepared import read_benchmark
from gcl.retrieve.run_file import Ranking, rankings

MAX_BYTES = 5_000_000  # of a file for CIRR's server

Upload = tuple[str, dict[str, Any]]


def first(ranking: Ranking, queries: list[str], depth: int) -> dict[str, list[str]]:
    """Return the first so many candidates of every query."""
    return {query: row[:depth] for query, row in zip(queries, ranking.candidates, strict=True)}


def cirr_upload(ranking: Ranking, queries: list[str]) -> Upload | None:
    """Return name and content of one of CIRR's two files; source: the data set's page on its test server."""
    metric, depth = ("recall_subset", 3) if ranking.pool == "subset" else ("recall", 50)
    return metric, {"version": "rc2", "metric": metric} | first(ranking, queries, depth)


def circo_upload(ranking: Ranking, queries: list[str]) -> Upload | None:
    """Return name and content of CIRCO's file; source: the data set's README."""
    if ranking.task != "circo":
        return None
    return "circo", {query: [*map(int, row)] for query, row in first(ranking, queries, 50).items()}


UPLOADS: dict[str, Callable[[Ranking, list[str]], Upload | None]] = {"cirr": cirr_upload, "circo": circo_upload}


def submit(run_file: Path, prepared: Path, reader: str, output: Path) -> None:
    """Write the uploads of a run.

    Raises:
        UserError: a benchmark that has no server, or queries that could not be used: a server wants all of them.
    """
    upload = lookup(UPLOADS, reader, "reader of a benchmark with an evaluation server", "src/gcl/score/submit.py")
    bench = read_benchmark(prepared)
    queries = {task.name: bench.queries(task) for task in bench.tasks}
    if missing := [query for found in bench.missing.values() for query in found]:
        raise UserError(f"{len(missing)} queries can't be used (first: {missing[0]}), but the server wants all of them")
    with atomic_path(output) as folder:
        folder.mkdir()
        for ranking in rankings(run_file, queries):
            if (made := upload(ranking, queries[ranking.task])) is None:
                continue
            path = folder / f"{made[0]}.{ranking.calibration}.seed{ranking.seed}.json"
            path.write_text(json.dumps(made[1]))
            if (size := path.stat().st_size) > MAX_BYTES:
                raise UserError(f"{path.name} has {size} bytes, more than the {MAX_BYTES} that a server takes")


def main() -> None:
    """Run from the command line."""
    made = parser("submit", __doc__, "--run run.parquet --prepared results/prepared/cirr_test1 --reader cirr ...")
    made.add_argument("--run", dest="run_file", required=True, type=Path, help="what `retrieve` wrote")
    made.add_argument("--prepared", required=True, type=Path, help="prepared benchmark")
    made.add_argument("--reader", required=True, help="the benchmark's reader: " + ", ".join(UPLOADS))
    made.add_argument("--output", required=True, type=Path, help="folder to write")
    run(made, submit)


if __name__ == "__main__":
    main()
