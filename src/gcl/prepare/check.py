"""Look over training pairs before anything is trained: what is there, what is wrong, what it will take.

In:  a folder of pairs in any form that prepare/pairs/ reads.
Out: a summary on stdout, and rejects.csv: every record that is left out, with the reason.
"""

import csv
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from gcl.common.command import parser, run
from gcl.common.devices import cores
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.data.images import UPRIGHT, open_image
from gcl.data.records import Pair
from gcl.prepare.pairs import forms, reader_of_pairs
from gcl.prepare.pairs.auto import shape_of
from gcl.prepare.prepare import usable

SHOWN = 5  # examples of each kind
SAMPLE = 500  # images whose size is looked at


def repeats_per_batch(values: list[str], batch: int) -> float:
    """Return how many pairs of equal values a random batch is expected to hold."""
    n = len(values)
    if n < 2:
        return 0.0
    equal = sum(c * (c - 1) for c in Counter(values).values()) / (n * (n - 1))
    return equal * batch * (batch - 1) / 2


def quantiles(values: list[int]) -> str:
    """Format the least, the median, the 95 % quantile and the largest."""
    low, middle, high, top = np.quantile(values, [0, 0.5, 0.95, 1], method="nearest")
    return f"{low} least, {middle} median, {high} at 95 %, {top} most"


def sizes(pairs: list[Pair]) -> list[int]:
    """Return the shorter side of a sample of the images, in pixels."""
    chosen = pairs[:: max(1, len(pairs) // SAMPLE)]
    return [min(open_image(p.image).size) for p in chosen]


def memory_mb(batch: int, width: int) -> float:
    """Return MB of a batch's vectors and their gradient, three modalities in float32; logits exist a tile at a time."""
    return 2 * 3 * batch * width * 4 / 1e6


def lines(pairs: list[Pair], digests: dict[str, str], batch: int, width: int) -> list[str]:
    """Describe usable pairs."""
    images, texts = [digests[p.image] for p in pairs], [p.texts[0] for p in pairs]
    views = Counter(len(p.texts) for p in pairs)
    steps = len(pairs) // batch
    turned = len({p.image for p in pairs if p.image.endswith(UPRIGHT)})
    return [
        f"distinct:      {len(set(images))} images, {len(set(texts))} captions",
        f"captions:      {', '.join(f'{n} pairs with {k}' for k, n in sorted(views.items()))}; "
        f"words: {quantiles([len(t.split()) for t in texts])}",
        f"images:        shorter side in pixels: {quantiles(sizes(pairs))}",
        *([f"orientation:   {turned} images are turned upright by their EXIF orientation"] if turned else []),
        f"first pair:    {pairs[0].name}: {texts[0][:80]!r}",
        f"batch of {batch}:  {steps} steps an epoch; expected repeats in it: "
        f"{repeats_per_batch(images, batch):.2f} of an image, {repeats_per_batch(texts, batch):.2f} of a caption "
        "(they are masked in the loss)",
        f"memory:        {memory_mb(batch, width):.1f} MB for the loss's vectors and their gradient at {width} "
        "dimensions; the towers come on top, `full: {chunk: ...}` bounds them",
        "",
        "to train and to measure on it, put the folder at data/mine and run:",
        "  snakemake --cores all --config pairs=mine 'benchmarks=[own]' results=results_mine",
    ]


def check(data: Path, reader: str, batch_size: int, width: int, reject_limit: float, rejects: Path | None) -> None:
    """Print what was found.

    Raises:
        UserError: no form that is known, no usable pair, more unusable ones than the limit, or fewer pairs
            than a batch.
    """
    if batch_size < 2 or width < 1:
        raise UserError(f"--batch-size is {batch_size} and --width {width}, expected at least 2 and 1")
    chosen = shape_of(data) if reader == "auto" else reader
    read = reader_of_pairs(chosen).read
    target = rejects or data / "rejects.csv"
    with atomic_path(target) as temporary, TemporaryDirectory() as work:
        pairs, digests = usable(read(data), 1.0, temporary, cores(), Path(work))
    with target.open(newline="", encoding="utf-8") as file:
        reasons = [row["reason"] for row in csv.DictReader(file)]
    total = len(pairs) + len(reasons)
    repeated = sum("the same image and caption" in reason for reason in reasons)
    unusable = len(reasons) - repeated
    print(f"{data}: read as {chosen}")
    print(f"pairs:         {total} found, {len(pairs)} usable, {unusable} unusable, {repeated} repeated")
    if reasons:
        print(f"left out:      listed in {target}")
        for example in reasons[:SHOWN]:
            print(f"               {example}")
    if not pairs:
        why = f"{target} says why" if reasons else "its files hold no record at all"
        raise UserError(f"{data} holds no usable pair; {why}")
    print("\n".join(lines(pairs, digests, batch_size, width)))
    sys.stdout.flush()
    if unusable > reject_limit * total:
        raise UserError(
            f"{unusable} of {total} pairs are unusable, more than reject_limit {reject_limit:.1%} allows; "
            f"mend them ({target}) or raise reject_limit in config/config.yaml"
        )
    if len(pairs) < batch_size:
        raise UserError(f"{len(pairs)} pairs don't fill one batch of {batch_size}; lower batch_size in the recipe")


def main() -> None:
    """Run from the command line."""
    options = parser("check", __doc__, "data/mine --batch-size 256")
    options.add_argument("data", type=Path, metavar="PAIRS", help="folder of pairs")
    options.add_argument("--reader", default="auto", choices=forms(), help="its form (auto)")
    options.add_argument("--batch-size", type=int, default=256, help="pairs per step, as in the recipe (256)")
    options.add_argument("--width", type=int, default=256, help="dimensions of the model's vectors (256)")
    options.add_argument("--reject-limit", type=float, default=0.01, help="largest share of unusable pairs (0.01)")
    options.add_argument("--rejects", type=Path, metavar="CSV", help="list of what is left out (PAIRS/rejects.csv)")
    run(options, check)


if __name__ == "__main__":
    main()
