"""Write the files that the evaluation servers of benchmarks with hidden labels take.

In:  a run (Parquet) and the prepared benchmark.
Out: a folder with the JSON files to upload, one set for each seed and calibration of the run:
     CIRR   recall.*.json, the first 50 of the split; recall_subset.*.json, the first 3 of each query's own set
     CIRCO  circo.*.json, the first 50
"""

import json
from pathlib import Path

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.data.prepared import read_benchmark
from gcl.prepare.benchmarks import reader_of
from gcl.retrieve.run_file import rankings

MAX_BYTES = 5_000_000  # of a file for CIRR's server


def submit(run_file: Path, prepared: Path, reader: str, output: Path) -> None:
    """Write the uploads of a run.

    Raises:
        UserError: a benchmark that has no server, or queries that could not be used: a server wants all of them.
    """
    upload = reader_of(reader).upload
    if upload is None:
        raise UserError(f"the benchmark's reader '{reader}' knows of no evaluation server: its labels are not hidden")
    bench = read_benchmark(prepared)
    queries = {task.name: bench.queries(task) for task in bench.tasks}
    if missing := [query for names in bench.missing.values() for query in names]:
        raise UserError(f"{len(missing)} queries can't be used (first: {missing[0]}), but the server wants all of them")
    with atomic_path(output) as folder:
        folder.mkdir()
        for ranking in rankings(run_file, queries):
            ranked = dict(zip(queries[ranking.task], ranking.candidates, strict=True))
            if (file := upload(ranking.task, ranking.pool, ranked)) is None:
                continue
            path = folder / f"{file[0]}.{ranking.calibration}.seed{ranking.seed}.json"
            path.write_text(json.dumps(file[1]), encoding="utf-8")
            if (size := path.stat().st_size) > MAX_BYTES:
                raise UserError(f"{path.name} has {size} bytes, more than the {MAX_BYTES} that a server takes")


def main() -> None:
    """Run from the command line."""
    options = parser(
        "submit",
        __doc__,
        "--run results/runs/clip_l14/gcl_full/cirr_test1.parquet --prepared results/prepared/cirr_test1"
        " --reader cirr --output upload",
    )
    options.add_argument("--run", dest="run_file", required=True, type=Path, help="what `retrieve` wrote")
    options.add_argument("--prepared", required=True, type=Path, help="prepared benchmark")
    options.add_argument("--reader", required=True, help="the benchmark's reader")
    options.add_argument("--output", required=True, type=Path, help="folder to write")
    run(options, submit)


if __name__ == "__main__":
    main()
