"""What a cut-off lets through: by modality pair, the share of unrelated and of relevant items that score above it.

    python benchmarks/cutoff.py

The demo's model and its held-out test split: `make run` must have been there. A z-score of 3 is three deviations above
what unrelated training pairs have; if their scores were normally distributed, 0.13 % would lie above.
"""

from pathlib import Path
from typing import Any

import numpy as np

from gcl.common.arrays import Floats
from gcl.data.prepared import PreparedBenchmark, read_benchmark
from gcl.report.figure_data import relevance
from gcl.retrieve.calibration import Calibration, affine, read_calibration, vectors
from measure import arguments, table, write

CUTS = (2.0, 3.0, 4.0)
RESULTS = Path("results")


def units(bench: PreparedBenchmark, name: str, folder: Path, mode: str, stats: Calibration) -> Floats:
    """Return the (n, D) unit vectors of a table."""
    image, text = (np.load(folder / f"{modality}.npy") for modality in ("image", "text"))
    items = bench.tables[name]
    pictures = items.image_rows.flatten().to_numpy()
    modality = name.partition("_")[2]
    return vectors(
        image[pictures] if modality != "text" else None, text[items.text_rows] if modality != "image" else None,
        mode, "sum_raw", stats,
    )  # fmt: skip


def scores(bench: PreparedBenchmark, folder: Path, stats: Calibration, mode: str) -> dict[str, tuple[Floats, Any]]:
    """Return by task the (Q, C) scores of its local pool, and which are relevant."""
    scores_by_task = {}
    for task in bench.tasks:
        (pool,) = task.pools["local"]
        query, candidate = (units(bench, name, folder, mode, stats) for name in (task.queries, pool))
        factors, offsets = affine(mode, task.query_modality, [task.candidate_modality], stats)
        good = relevance(bench, task.name, bench.queries(task), bench.tables[pool].ids.to_pylist())
        scores_by_task[task.name] = ((query @ candidate.T) * factors + offsets, good)
    return scores_by_task


def main() -> None:
    """Count."""
    given = arguments(__doc__, backbone="clip_lite", recipe="cl_t05", benchmark="clipart9")
    model = Path(given.backbone) / given.recipe
    stats = read_calibration(RESULTS / "calibrations" / model / "seed0.json")
    bench = read_benchmark(RESULTS / "prepared" / given.benchmark)
    folder = RESULTS / "embeddings" / model / given.benchmark / "seed0"
    z, cosine = (scores(bench, folder, stats, mode) for mode in ("center_zscore", "none"))
    others = np.concatenate([values[~good] for values, good in cosine.values()])
    level = float(np.quantile(others, 1 - 0.00135))  # as many of all as a normal z-score of 3
    rows = []
    for task in bench.tasks:
        values, good = z[task.name]
        plain, _ = cosine[task.name]
        rows.append(
            [f"{task.query_modality} → {task.candidate_modality}"]
            + [f"{100 * (values[~good] >= cut).mean():.2f} / {100 * (values[good] >= cut).mean():.0f}" for cut in CUTS]
            + [f"{100 * (plain[~good] >= level).mean():.2f} / {100 * (plain[good] >= level).mean():.0f}"]
        )
    columns = ["query → item", *(f"z ≥ {cut:g}" for cut in CUTS), f"cosine ≥ {level:.2f}"]
    caption = (
        f"Percent of unrelated items above a cut-off / of relevant items above it; {given.backbone} {given.recipe}, "
        f"{given.benchmark}, seed 0. The cosine is the one that lets through as many of all as a normal z ≥ 3 would."
    )
    write("cutoff", 'What "no match" means', [table(caption, columns, rows)])


if __name__ == "__main__":
    main()
