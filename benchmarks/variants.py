"""Smaller variants of the demo's models: what each loses on both embedded benchmarks, and how fast it is.

    python benchmarks/variants.py

The models are those that `make run` leaves in results/; three embeddings of each benchmark, in turns.
"""

import csv
import tempfile
from pathlib import Path

from gcl.common.rows import load_yaml
from gcl.config.project import load
from gcl.export.bundle import bundle
from gcl.prepare.prepare import prepare_benchmark
from gcl.score.variants import variants
from measure import arguments, options, table, write

MODELS = [(backbone, recipe) for backbone in ("clip_lite", "vista_lite") for recipe in ("cl_t05", "cl_t05_ramp")]
BENCHMARKS = ("clipart9", "emoji9")
KINDS = ("fp16", "int8", "int8_blocks")
WITHIN = 0.5  # points


def rows_of(lines: list[dict[str, str]], model: str, chosen: str) -> list[list[str]]:
    """Return a row for each variant: size, and by benchmark throughput and points gained, mean and least over pools."""
    rows = []
    for variant in dict.fromkeys(line["variant"] for line in lines):
        own = [line for line in lines if line["variant"] == variant]
        cells = [model, f"{variant}, chosen" if variant == chosen else variant, own[0]["megabytes"]]
        for name in BENCHMARKS:
            there = [line for line in own if line["benchmark"] == name]
            gains = [float(line["difference_to_fp32"]) for line in there]
            cells += [there[0]["throughput_of_fp32"], f"{sum(gains) / len(gains):+.2f}", f"{min(gains):+.2f}"]
        rows.append([*cells, max((line["largest_1_minus_cosine"] for line in own), key=float)])
    return rows


def main() -> None:
    """Run from the command line."""
    given = arguments(__doc__, repeats=3)
    project, rows = load(load_yaml(Path("config/config.yaml"))), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for benchmark in BENCHMARKS:
            row = project.benchmarks[benchmark]
            data = Path("data") / row.dataset
            prepare_benchmark(data, data, row, None, 2, folder / benchmark)
        for backbone, recipe in MODELS:
            onnx, model = Path("results/onnx") / backbone, folder / f"{backbone}.{recipe}"
            calibration = Path("results/calibrations") / backbone / recipe / "seed0.json"
            bundle(onnx / "towers", onnx / recipe / "seed0", calibration, model)
            prepared, output = [folder / benchmark for benchmark in BENCHMARKS], folder / f"{model.name}.variants"
            outcome = variants(model, prepared, KINDS, "Success@10", WITHIN, given.repeats, options.device, output)
            with (output / "variants.csv").open(newline="", encoding="utf-8") as file:
                rows += rows_of(list(csv.DictReader(file)), f"{backbone} {recipe}", outcome["chosen"])
    columns = ["model", "variant", "MB"]
    for name in BENCHMARKS:
        columns += [f"{name}: throughput of fp32's", "points, mean", "points, least"]
    caption = (
        f"Success@10 against fp32: mean and least over both pools, with and without center_zscore; chosen: the fastest"
        f" that loses at most {WITHIN} anywhere. Times are of `gcl infer`: opening the model counts"
    )
    write("variants", "Smaller variants", [table(caption, [*columns, "largest 1 - cosine"], rows)])


if __name__ == "__main__":
    main()
