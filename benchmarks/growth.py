"""How cost grows: five sizes each of batch, pool, queries and items; the exponent of a power law beside the expected.

    python benchmarks/growth.py

The exponent is fitted to the three largest sizes: at small ones what does not grow weighs most.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

from embedding import write_images, write_model, write_prepared
from gcl.infer.infer import infer
from gcl.losses.gcl import gcl_loss
from gcl.retrieve.retrieve import retrieve
from gcl.score.score import score
from loss import SIX, batch, mix_of
from measure import Times, arguments, in_turns, options, table, write
from retrieval_memory import write_pool
from topk import search, unit_rows

mpl.use("svg")
import matplotlib.pyplot as plt

Curve = tuple[list[int], list[Callable[[], object]]]


def losses() -> Curve:
    """Return works for batches."""
    sizes = [1024, 2048, 4096, 8192, 16384]

    def work(n: int) -> Callable[[], object]:
        vectors = batch(n, 3.0)
        mix, leaf = mix_of(vectors), vectors.requires_grad_()
        return lambda: gcl_loss(leaf, SIX, "no_self", 0.07, None, None, mix).backward()

    return sizes, [work(n) for n in sizes]


def pools() -> Curve:
    """Return works for pools of candidates, 256 queries."""
    sizes = [62_500, 125_000, 250_000, 500_000, 1_000_000]
    vectors, queries = unit_rows(sizes[-1], 0), unit_rows(256, 1)
    return sizes, [lambda n=n: search(vectors[:n], queries, 100) for n in sizes]


def queries() -> Curve:
    """Return works for queries, 200,000 candidates."""
    sizes = [256, 512, 1024, 2048, 4096]
    vectors, queries = unit_rows(200_000, 0), unit_rows(sizes[-1], 1)
    return sizes, [lambda n=n: search(vectors, queries[:n], 100) for n in sizes]


def images(folder: Path) -> Curve:
    """Return works for images, from files to disk."""
    sizes = [64, 128, 256, 512, 1024]
    models, _ = write_model(folder / "models", "ViT-S-32-alt")
    paths = write_images(folder / "images", sizes[-1], (320, 240))
    outputs = iter(range(10**6))

    def work(n: int) -> Callable[[], object]:
        prepared = folder / f"prepared{n}"
        write_prepared(prepared, paths[:n], 8)
        model = models / "fp32"
        return lambda: infer(model, prepared, None, "cpu", 0, False, False, (0, 1), folder / f"out{next(outputs)}")

    return sizes, [work(n) for n in sizes]


def scores(folder: Path) -> Curve:
    """Return works for scoring runs of depth 100."""
    sizes = [1000, 2000, 4000, 8000, 16000]
    outputs = iter(range(10**6))

    def work(n: int) -> Callable[[], object]:
        place = folder / f"scored{n}"
        write_pool(place, 20_000, n)
        run = place / "run.parquet"
        retrieve(
            place / "prepared", [place / "embeddings"], None, place / "onnx", None, ["none"], 100, "cpu", None, run
        )
        return lambda: score(run, place / "prepared", "x", "x", "x", ["Success@10"], 100, folder / f"s{next(outputs)}")

    return sizes, [work(n) for n in sizes]


def exponent(sizes: list[int], times: list[Times]) -> float:
    """Return the slope of log time on log size over the three largest."""
    return float(np.polyfit(np.log(sizes[-3:]), np.log([t.median for t in times[-3:]]), 1)[0])


def draw(curves: dict[str, tuple[list[int], list[Times]]]) -> None:
    """Draw all curves, each against its own sizes."""
    mpl.rcParams["svg.hashsalt"] = "gcl"
    figure, axes = plt.subplots(1, len(curves), figsize=(3 * len(curves), 3), layout="constrained")
    for axis, (name, (sizes, times)) in zip(axes, curves.items(), strict=True):
        middle = np.array([t.median for t in times])
        spread = np.abs(np.array([[min(t.seconds), max(t.seconds)] for t in times]).T - middle)
        axis.errorbar(sizes, middle, spread, marker="o", capsize=3)
        axis.set(xscale="log", yscale="log", title=name, xlabel="size", ylabel="seconds")
    figure.savefig(options.results / "growth.svg", metadata={"Date": None})


def main() -> None:
    """Run from the command line."""
    given = arguments(__doc__, repeats=3)
    curves, rows = {}, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        makers = {
            "loss (batch N)": (losses, 2),
            "search (candidates C)": (pools, 1),
            "search (queries Q)": (queries, 1),
            "embedding (images)": (lambda: images(folder), 1),
            "scoring (queries)": (lambda: scores(folder), 1),
        }
        for what, (make, expected) in makers.items():
            sizes, works = make()
            times = list(in_turns({str(n): work for n, work in zip(sizes, works, strict=True)}, given.repeats).values())
            curves[what] = (sizes, times)
            shown = ", ".join(f"{n:,}: {t.shown()}" for n, t in zip(sizes, times, strict=True))
            rows.append([what, f"{exponent(sizes, times):.2f}", expected, shown])
    draw(curves)
    values = {name: {"sizes": sizes, "seconds": [t.seconds for t in times]} for name, (sizes, times) in curves.items()}
    write(
        "growth",
        "How cost grows",
        [table(f"{torch.get_num_threads()} threads", ["what", "exponent", "expected", "times"], rows)],
        values=values,
    )


if __name__ == "__main__":
    main()
