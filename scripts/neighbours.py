"""Write the table of the neighbouring methods: each core with the row that it is to be compared with.

    python scripts/neighbours.py

In:  results/eleven/tables/clipart9.csv, which `snakemake --configfile config/eleven.yaml` makes.
Out: results/eleven/neighbours.md
"""

import csv
from pathlib import Path
from typing import NamedTuple

from gcl.common.files import atomic_path
from gcl.common.markup import markdown

TABLE, OUTPUT = Path("results/eleven/tables/clipart9.csv"), Path("results/eleven/neighbours.md")
CALIBRATED = "center_zscore"
PARTS = "a query's parts, and the items that none beats: `gcl search --each`; words in common: in `rerank`"
FIXTURES = "read and measured on small files in the official layout: config/fixtures.yaml"


class Row(NamedTuple):
    """A cell of the results: its backbone, recipe and calibration."""

    backbone: str
    recipe: str
    calibration: str = CALIBRATED

    @property
    def name(self) -> str:
        """Say which."""
        return f"`{self.backbone}` `{self.recipe}`, {self.calibration}"


CL, NCL, WARM = Row("clip_lite", "cl"), Row("clip_lite", "ncl"), Row("clip_lite", "cl_t05")
# Number of the method, its name, the row that has it, and the row beside which it stands; a text where there is no row.
NEIGHBOURS: tuple[tuple[int, str, Row | str, Row | None], ...] = (
    (1, "NCL: the loss", NCL, CL),
    (1, "NCL: its bias at test time", NCL._replace(calibration="sinkhorn"), NCL._replace(calibration="none")),
    (2, "Retrieve Fast, Rerank Smart: on features", WARM._replace(calibration="rerank"), WARM),
    (2, "EDJE: reading both", WARM._replace(calibration="joint"), WARM),
    (2, "the second stage taught", Row("clip_lite", "cl_t05_distilled"), Row("clip_lite", "cl_t05_longer")),
    (3, "Cross-modal RAG: its adapter, a second stage", WARM._replace(calibration="adapter"), WARM),
    (3, "Cross-modal RAG: parts and words", PARTS, None),
    (4, "Vision-Free Retrieval: captions alone", Row("clip_lite", "cl_t05_textual"), WARM),
    (4, "Vision-Free Retrieval: half and half", Row("clip_lite", "cl_t05_blend"), WARM),
    (5, "CoLLM: triplets of like pairs", Row("clip_lite", "cl_t05_composed"), WARM),
    (6, "TIIR, MME: one image token for nine", Row("vista_lite_1", "cl"), Row("vista_lite", "cl")),
    (7, "ReT: recurrent fusion of layers, late interaction", Row("recurrent_lite_late", "cl"), CL),
    (8, "M2KR", FIXTURES, None),
    (9, "multi-granularity, MMDocIR", FIXTURES, None),
    (10, "VC2L: text as pixels", Row("pixel_lite", "cl"), CL),
    (11, "Matryoshka: 64 numbers of 256", Row("clip_lite", "cl_t05_matryoshka_w64"), Row("clip_lite", "cl_t05_w64")),
)  # fmt: skip


def read() -> dict[Row, tuple[float, float, float]]:
    """Return mean, low and high of the mean over tasks in the global pool, by row."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {
            Row(row["backbone"], row["recipe"], row["calibration"]): (
                float(row["mean"]), float(row["ci_low"]), float(row["ci_high"]),
            )
            for row in csv.DictReader(file)
            if row["pool"] == "global" and row["task"] == "mean"
        }  # fmt: skip


def main() -> None:
    """Write the table."""
    means, cells = read(), []
    for number, name, row, beside in NEIGHBOURS:
        if isinstance(row, str) or beside is None:
            cells.append([str(number), name, str(row), "–", "–", "–"])
            continue
        (value, low, high), other = means[row], means[beside][0]
        cells.append(
            [str(number), name, row.name, f"{value:.1f} [{low:.1f}, {high:.1f}]", f"{beside.name}: {other:.1f}",
             f"{value - other:+.1f}"]
        )  # fmt: skip
    header = ["#", "method", "row", "Success@10", "beside", "difference"]
    about = "clipart9, global pool, mean of nine tasks, one seed [95 % bootstrap interval over queries]."
    with atomic_path(OUTPUT) as path:
        path.write_text(f"{about}\n\n{markdown(header, cells)}", encoding="utf-8")


if __name__ == "__main__":
    main()
