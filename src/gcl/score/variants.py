"""Make smaller variants of a model, measure what each loses in ranking and gains in speed, and choose.

In:    an exported whole model (`bundle`, or `export` of a fully trained one), prepared benchmarks.
Out:   <output>/<variant>/, each a model folder (export/smaller.py says what they are); <output>/chosen, a link to the
       fastest of those that lose at most `--within` points in every pool of every benchmark; variants.csv and
       variants.md with size, distance of the vectors, throughput and the measure against fp32.

What is done is kept beside the output until all is: a process that was killed goes on. A variant that can't be run here
is named, and not chosen.
"""

import csv
import json
import logging
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gcl.common.command import digest, parser, run
from gcl.common.errors import UserError
from gcl.common.files import KEY, atomic_path, begin, key_of, unfinished
from gcl.common.markup import markdown
from gcl.data.prepared import read_benchmark
from gcl.export.smaller import VARIANTS, make, read_whole
from gcl.infer.store import read_outputs
from gcl.retrieve.retrieve import retrieve
from gcl.score.score import check_measure, score
from gcl.score.statistics import averages, pools_of, read_result, summarise, weighted_results

log = logging.getLogger(__name__)

COLUMNS = (
    *("variant", "megabytes", "benchmark", "throughput_of_fp32", "largest_1_minus_cosine"),
    *("pool", "measure", "value", "difference_to_fp32"),
)
CALIBRATED = "center_zscore"
SCRATCH = "measured"  # what is needed until the comparison is done


class Measured(NamedTuple):
    """A variant on one benchmark."""

    seconds: list[float]  # of embedding it, one a repeat
    distance: float  # largest 1 - cosine of a vector to fp32's
    percent: dict[str, float]  # mean of the tasks by pool, also with calibrated scores if the model has a calibration


def embed(model: Path, prepared: Path, device: str, output: Path) -> float:
    """Embed in a process of its own: a runtime that crashes on a graph must not take the comparison with it.

    Returns:
        Its seconds, start of Python not counted; those of an earlier process that came so far.

    Raises:
        UserError: it crashed, or says why it can't.
    """
    manifest = output.with_name(f"{output.name}.json")
    command = [sys.executable, "-m", "gcl.infer", "--onnx", str(model), "--prepared", str(prepared)]
    command += ["--device", device, "--output", str(output), "--manifest", str(manifest)]
    if not manifest.exists():
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            what = f"died of signal {-done.returncode}" if done.returncode < 0 else done.stderr.strip().splitlines()[-1]
            raise UserError(f"{model.name} can't be run here: {what}")
    return float(json.loads(manifest.read_text(encoding="utf-8"))["wall_time_s"])


def distance(embeddings: Path, reference: Path) -> float:
    """Return the largest 1 - cosine of any vector."""
    worst = 0.0
    for a, b in zip(read_outputs([embeddings]), read_outputs([reference]), strict=True):
        if a is not None and b is not None:
            x, y = a[:], b[:]
            cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
            worst = max(worst, float(1 - cosine.min()))
    return worst


def percent(model: Path, prepared: Path, embeddings: Path, measure: str, folder: Path) -> dict[str, float]:
    """Return the mean of the tasks by pool, in percent; with calibrated scores too if the model has a calibration."""
    bench = read_benchmark(prepared)
    modes = ["none", *([CALIBRATED] if (model / "calibration.json").exists() else [])]
    retrieve(prepared, [embeddings], None, model, None, modes, 100, "cpu", None, folder / "run.parquet")
    score(folder / "run.parquet", prepared, "x", "x", "x", [measure], 10, folder / "scores")
    result = read_result(folder / "scores", "x", "x", {task.name: measure for task in bench.tasks})
    return {
        pool if mode == "none" else f"{pool}, {mode}": summarise(
            weighted_results(result, averages(bench.tasks, pool)["mean"], pool, mode), 10
        ).mean
        for mode in modes
        for pool in pools_of(bench.tasks)
    }


def timed(
    models: dict[str, Path], prepared: Sequence[Path], device: str, repeats: int, folder: Path
) -> tuple[dict[tuple[str, str], list[float]], dict[str, str]]:
    """Let all variants embed each benchmark in turns.

    Returns:
        Seconds by benchmark and variant, one a turn, and what is wrong with those variants that can't be run.

    Raises:
        UserError: fp32 can't be run.
    """
    seconds: dict[tuple[str, str], list[float]] = {}
    broken: dict[str, str] = {}
    for path in prepared:
        for turn in range(repeats):
            for name in [name for name in models if name not in broken]:
                try:
                    one = embed(models[name], path, device, folder / path.name / f"{name}.{turn}")
                except UserError as error:
                    if name == "fp32":
                        raise
                    log.warning("%s", error)
                    broken[name] = str(error)
                    continue
                seconds.setdefault((path.name, name), []).append(one)
    return seconds, broken


def compared(
    models: dict[str, Path], prepared: Sequence[Path], measure: str, device: str, repeats: int, folder: Path
) -> tuple[dict[str, dict[str, Measured]], list[str]]:
    """Measure the variants; return what was found, benchmark -> variant -> Measured, and what is wrong with others."""
    seconds, broken = timed(models, prepared, device, repeats, folder)
    results: dict[str, dict[str, Measured]] = {path.name: {} for path in prepared}
    for path in prepared:
        own = folder / path.name
        for name in [name for name in models if name not in broken]:
            (own / name).mkdir(exist_ok=True)
            far = distance(own / f"{name}.0", own / "fp32.0")
            values = percent(models[name], path, own / f"{name}.0", measure, own / name)
            results[path.name][name] = Measured(seconds[path.name, name], far, values)
    return results, list(broken.values())


def throughput(one: Measured, exact: Measured) -> float:
    """Return the median over turns of what a variant embeds in the time in which fp32 embeds one."""
    return statistics.median(b / a for a, b in zip(one.seconds, exact.seconds, strict=True))


def chosen(results: dict[str, dict[str, Measured]], within: float) -> str:
    """Return the variant, of benchmark -> variant -> Measured, that is fastest of those that lose little enough.

    Args:
        results: with a variant fp32, which loses nothing.
        within: points that may be lost in each pool of each benchmark.
    """

    def lost(name: str) -> float:
        return max(
            round(by["fp32"].percent[pool] - value, 9)
            for by in results.values()
            for pool, value in by[name].percent.items()
        )

    def slowest(name: str) -> float:
        return min(throughput(by[name], by["fp32"]) for by in results.values())

    names = [name for name in next(iter(results.values())) if lost(name) <= within]
    return max(names, key=slowest)


def lines_of(results: dict[str, dict[str, Measured]], sizes: dict[str, float], measure: str) -> list[list[str]]:
    """Return the rows of the table."""
    return [
        [
            *(name, f"{sizes[name]:.1f}", benchmark, f"{throughput(one, by['fp32']):.2f}", f"{one.distance:.1e}"),
            *(pool, measure, f"{value:.2f}", f"{value - by['fp32'].percent[pool]:+.2f}"),
        ]
        for benchmark, by in results.items()
        for name, one in by.items()
        for pool, value in one.percent.items()
    ]


def variants(
    onnx: Path,
    prepared: Sequence[Path],
    kinds: Sequence[str],
    measure: str,
    within: float,
    repeats: int,
    device: str,
    output: Path,
) -> dict[str, str]:
    """Make the variants, compare them, and choose; return what was chosen.

    Raises:
        UserError: the model isn't whole or can't be run, a folder is no benchmark, two benchmarks have one name,
            or an option that leaves nothing to choose.
    """
    check_measure(measure)
    if repeats < 1:
        raise UserError(f"--repeats {repeats}: expected 1 or more")
    if not within >= 0:
        raise UserError(f"--within {within:g}: expected 0 or more; fp32 itself loses 0")
    if len({path.name for path in prepared}) < len(prepared):
        raise UserError(f"--prepared {' '.join(map(str, prepared))}: expected folders with names of their own")
    read_whole(onnx)
    for path in prepared:
        read_benchmark(path)
    with unfinished(output) as work:
        begin(work, key_of(digest(onnx), *map(digest, prepared), *kinds, measure, repeats, device))
        models = {name: work / name for name in dict.fromkeys(["fp32", *kinds])}
        for name in [name for name, model in models.items() if not model.exists()]:
            with atomic_path(models[name]) as model:
                make(onnx, name, model)
        results, broken = compared(models, prepared, measure, device, repeats, work / SCRATCH)
        sizes = {name: sum(p.stat().st_size for p in model.glob("*.onnx")) / 1e6 for name, model in models.items()}
        best = chosen(results, within)
        text = write_tables(work, lines_of(results, sizes, measure), broken)
        shutil.rmtree(work / SCRATCH)
        (work / KEY).unlink()
        (work / "chosen").symlink_to(best)
        with atomic_path(output) as folder:
            work.rename(folder)
    print(f"{text}\nchosen: {best}, the fastest that loses at most {within:g} points; {output}/chosen")
    return {"chosen": best}


def write_tables(folder: Path, rows: list[list[str]], broken: list[str]) -> str:
    """Write variants.csv and variants.md; return the latter's text."""
    with (folder / "variants.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    notes = "".join(f"\n{line}\n" for line in broken)
    text = markdown([c.replace("_", " ") for c in COLUMNS], rows) + notes
    (folder / "variants.md").write_text(text, encoding="utf-8")
    return text


def main() -> None:
    """Run from the command line."""
    options = parser("variants", __doc__, "--onnx model --prepared results/prepared/clipart9 --output variants")
    options.add_argument("--onnx", required=True, type=Path, help="exported whole model")
    options.add_argument("--prepared", required=True, type=Path, nargs="+", help="benchmarks to measure on")
    options.add_argument(
        "--kinds",
        nargs="+",
        default=["fp16", "int8", "int8_blocks"],
        choices=list(VARIANTS),
        help="(fp16 int8 int8_blocks)",
    )
    options.add_argument("--measure", default="Success@10", help="a measure of ir_measures (Success@10)")
    options.add_argument("--within", type=float, default=0.5, help="points that the chosen one may lose (0.5)")
    options.add_argument("--repeats", type=int, default=3, help="times that each embeds each benchmark (3)")
    options.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    options.add_argument("--output", required=True, type=Path, help="folder to write")
    run(options, variants)


if __name__ == "__main__":
    main()
