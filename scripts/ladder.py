"""Draw what each part gives, CL and GCL side by side, on both benchmarks: docs/ladder.svg and the numbers behind it.

    python scripts/ladder.py

In:  results/emoji/tables/{clipart9,emoji9}.csv, which `snakemake --configfile config/emoji.yaml` makes.
Out: docs/ladder.svg, docs/ladder.csv
"""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TABLES, DOCS = Path("results/emoji/tables"), Path("docs")
LOSSES = {  # shown as -> recipes
    "CL, temperature 0.01": "cl",
    "GCL, 0.01": "gcl_no_copositive",
    "CL, 0.05": "cl_t05",
    "GCL, 0.05": "gcl_no_copositive_t05",
}
COLOURS = dict(zip(LOSSES, ("#9db8d9", "#e0a98a", "#2a6fbb", "#d1662b"), strict=True))
STEPS = (  # shown as, suffix of the recipe, calibration
    ("as trained", "", "none"),
    ("calibrated", "", "center_zscore"),
    ("three seeds\nas one vector", "_joint", "center_zscore"),
    ("and private,\nexpanded (ramp)", "_ramp", "center_zscore"),
    ("ramp, the first 50\nranked again", "_ramp", "rerank"),
)
STYLE = {"svg.hashsalt": "gcl", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def read(benchmark: str) -> dict[tuple[str, str], list[float]]:
    """Return (recipe, calibration) -> mean, low, high of the mean over tasks in the global pool."""
    with (TABLES / f"{benchmark}.csv").open(newline="", encoding="utf-8") as file:
        return {
            (row["recipe"], row["calibration"]): [float(row[key]) for key in ("mean", "ci_low", "ci_high")]
            for row in csv.DictReader(file)
            if row["backbone"] == "clip_lite" and row["pool"] == "global" and row["task"] == "mean"
        }


def main() -> None:
    """Draw."""
    rows = []
    with plt.rc_context(STYLE):
        _, panels = plt.subplots(1, 2, figsize=(9.5, 3.4), sharey=True, layout="constrained")
        for axes, benchmark in zip(panels, ("clipart9", "emoji9"), strict=True):
            means = read(benchmark)
            for number, (loss, recipe) in enumerate(LOSSES.items()):
                values = [means[recipe + suffix, mode] for _, suffix, mode in STEPS]
                xs = [step + 0.13 * (number - 1.5) for step in range(len(STEPS))]
                errors = [[v - low for v, low, _ in values], [high - v for v, _, high in values]]
                axes.errorbar(
                    xs, [v for v, *_ in values], errors, fmt="o-", ms=4, lw=1, color=COLOURS[loss], label=loss
                )
                names = [name.replace("\n", " ") for name, *_ in STEPS]
                rows += [[benchmark, loss, name, *value] for name, value in zip(names, values, strict=True)]
            axes.set_title(benchmark)
            axes.set_xticks(range(len(STEPS)), [name for name, *_ in STEPS], fontsize=7)
        panels[0].set_ylabel("Success@10, global pool (%)")
        panels[1].legend(fontsize=7, frameon=False, loc="lower right")
        plt.savefig(DOCS / "ladder.svg", metadata={"Date": None, "Creator": None})
    with (DOCS / "ladder.csv").open("w", newline="", encoding="utf-8") as file:
        header = ["benchmark", "loss", "step", "mean", "ci_low", "ci_high"]
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    main()
