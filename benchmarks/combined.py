"""What a combined model costs: bytes, the time of its heads beside the towers', and a query's, by recipe.

    python benchmarks/combined.py

The models are those of `config/emoji.yaml`, which must have been run. Heads embed 1,000 items in batches of 64, which
the towers take from pictures and texts; a query is searched among 100,000 random vectors of the width.
"""

from pathlib import Path

import numpy as np

from gcl.common.arrays import MODALITIES
from gcl.infer.session import open_session
from gcl.retrieve.search import search
from measure import arguments, in_turns, table, write

RESULTS = Path("results/emoji/onnx/clip_lite")
RECIPES = (
    "cl_t05/seed0", "cl_t05_joint/seed0", "cl_t05_private/seed0", "cl_t05_ramp/seed0", "cl_t05_ramp_int8/seed0",
    "cl_t05_ramp_bank512/seed0", "cl_t05_ramp_w1024/seed0", "cl_t05_ramp_w256/seed0",
)  # fmt: skip
ITEMS, BATCH, POOL = 1000, 64, 100_000


def runner(path: Path, inputs: dict[str, np.ndarray]):
    """Return what runs a graph over the inputs in batches."""
    session = open_session(path, "cpu", 0)
    n = len(next(iter(inputs.values())))
    parts = [{k: v[start : start + BATCH] for k, v in inputs.items()} for start in range(0, n, BATCH)]
    return lambda: [session.run(None, part) for part in parts]


def main() -> None:
    """Measure."""
    given = arguments(__doc__, repeats=5)
    rng = np.random.default_rng(0)
    taken = {
        m: open_session(RESULTS / f"{RECIPES[0]}/{m}.onnx", "cpu").get_inputs()[0].shape[1] for m in MODALITIES[:2]
    }
    features = {m: rng.normal(size=(ITEMS, width)).astype(np.float32) for m, width in taken.items()}
    works, widths = {}, {}
    pixels, ids = rng.normal(size=(ITEMS, 3, 160, 160)), rng.integers(1000, 20000, (ITEMS, 16))
    works["towers", "image"] = runner(RESULTS / "towers/image.onnx", {"pixels": pixels.astype(np.float32)})
    works["towers", "text"] = runner(RESULTS / "towers/text.onnx", {"ids": ids})
    for recipe in RECIPES:
        for m, x in features.items():
            works[recipe, m] = runner(RESULTS / recipe / f"{m}.onnx", {"x": x})
        widths[recipe] = open_session(RESULTS / recipe / "image.onnx", "cpu").get_outputs()[0].shape[1]
    for width in sorted(set(widths.values())):
        pool = rng.normal(size=(POOL, width)).astype(np.float32)
        pool /= np.linalg.norm(pool, axis=1, keepdims=True)
        works["search", width] = lambda pool=pool: search(pool[:1], pool, 10)
    times = in_turns(works, given.repeats)
    rows = []
    for recipe in RECIPES:
        size = sum((RESULTS / recipe / f"{m}.onnx").stat().st_size for m in features) / 1e6
        shares = [times[recipe, m].over(times["towers", m]) for m in features]
        width = widths[recipe]
        sizes = [recipe.partition("/")[0], f"{width:,}", f"{4 * width / 1024:.1f}", f"{size:.1f}"]
        rows.append([*sizes, *shares, times["search", width].shown()])
    columns = ["recipe", "numbers", "kB an item", "MB of heads", "heads over tower, image", "heads over tower, text"]
    columns.append("one query, 100,000 items")
    caption = "Heads' time over the frozen tower's for the same items: what an item costs beyond the tower"
    write("combined", "What a combined model costs", [table(caption, columns, rows)])


if __name__ == "__main__":
    main()
