"""Compare the recommended recipe with every control, in pairs, on both benchmarks: results/emoji/tables/controls.md.

    python scripts/controls.py

In:  results/emoji, which `snakemake --configfile config/emoji.yaml` makes.
Out: for each control, calibrated by center_zscore, the difference of `cl_t05_ramp` to it in percentage points, by its
     scores and ranked again, with a 95 % bootstrap interval over subjects (clipart9) or families (emoji9): all nine
     tasks of a subject are resampled together. Controls of several seeds are the mean of their seeds.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from gcl.common.markup import markdown
from gcl.common.rows import load_yaml
from gcl.config.project import load, runs_of
from gcl.data.prepared import read_benchmark
from gcl.score.statistics import Result, averages, difference, read_result, weighted_results

RESULTS, RECOMMENDED, MODE = Path("results/emoji"), "cl_t05_ramp", "center_zscore"
AGAINST = {"center_zscore": "", "rerank": ", ranked again"}
NO_CONTROLS = ("_ramp", "_private", "_expanded")  # of what a recipe's name holds that has parts of the recommended one


def one_seed(result: Result) -> Result:
    """Return the mean of the seeds in place of each."""
    return replace(result, seeds=[0], values={key: x.mean(0, keepdims=True) for key, x in result.values.items()})


def main() -> None:
    """Write the table."""
    project = load(load_yaml(Path("config/config.yaml")) | load_yaml(Path("config/emoji.yaml")))
    config = project.config
    benches = {name: read_benchmark(RESULTS / "prepared" / name) for name in config.benchmarks}
    rows, header = [], ["control"]
    for backbone, recipe in runs_of(config):
        if any(part in recipe for part in NO_CONTROLS):
            continue
        row = [f"{backbone} {recipe}"]
        header = ["control"]
        for name, bench in benches.items():
            measures = {task.name: project.benchmarks[name].headline for task in bench.tasks}
            ours, control = (
                one_seed(read_result(RESULTS / "scores" / backbone / r / name, backbone, r, measures))
                for r in (RECOMMENDED, recipe)
            )
            for pool in ("global", "local"):
                weights = averages(bench.tasks, pool)["mean"]
                for mode, said in AGAINST.items():
                    pair = weighted_results(ours, weights, pool, mode), weighted_results(control, weights, pool, MODE)
                    row.append(difference(*pair, config.resamples, bench.clusters).long())
                    header.append(f"{name}, {pool}{said}")
        rows.append(row)
    lowest = np.array([[float(cell.partition("[")[2].partition(",")[0]) for cell in row[1:]] for row in rows])
    least = ", ".join(f"{name}: {value:.1f}" for name, value in zip(header[1:], lowest.min(0), strict=True))
    title = f"# {RECOMMENDED} against every control, all by {MODE}"
    text = f"{title}\n\n{markdown(header, rows)}\nLowest end of an interval: {least}.\n"
    (RESULTS / "tables/controls.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
