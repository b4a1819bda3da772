"""Make triplets of the training pairs, from each pair and pairs whose images are like its own (CoLLM).

In:  prepared pairs, and the towers' features of their images.
Out: texts.parquet, triplets.parquet: the query's image lies between a pair's and a neighbour's, its text says what the
     pair's caption is instead of the neighbour's, and the pair's image is meant. `infer --only-texts` embeds the texts.

Neighbours are looked for among GROUP pairs drawn together, as large a batch would be: the time grows with the pairs,
not with their square. Source: arXiv 2503.19910 (its figures; the templates are ours).
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from gcl.common.arrays import Floats, Ints, read_array, unit
from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.data.records import ContentRows, read_pairs, read_parquet
from gcl.data.triplets import COLUMNS, NOTHING, write_table

GROUP = 4096
TEMPLATES = ("{a} instead of {b}", "{a}, not {b}", "change {b} to {a}", "the same as {a} in place of {b}")


def groups(n: int) -> Iterator[Ints]:
    """Yield the places of n pairs, drawn in groups of at most GROUP whose sizes differ by one at most."""
    order: Ints = np.random.default_rng(0).permutation(n)
    edges = np.linspace(0, n, max(1, -(-n // GROUP)) + 1).round().astype(int)
    yield from (order[start:stop] for start, stop in pairwise(edges.tolist()))


def nearest(vectors: Floats, images: Ints, captions: Ints, k: int) -> Ints:
    """Return (n, k) the most similar others, nearest first, ties by place; NOTHING where there are fewer.

    Args:
        vectors: (n, F) unit vectors.
        images: (n,) pairs of the same image are no neighbours.
        captions: (n,) nor are those of the same caption: there is nothing to change.
        k: how many.
    """
    cosines = vectors @ vectors.T
    cosines[(images[:, None] == images) | (captions[:, None] == captions)] = -np.inf
    order: Ints = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    order[np.isneginf(np.take_along_axis(cosines, order, 1))] = NOTHING
    return order


def like_pairs(vectors: Floats, images: Ints, captions: Ints, k: int) -> Iterator[tuple[int, int, int]]:
    """Yield (pair, pair like it, number of the neighbour) for all pairs.

    Args:
        vectors: (P, F) unit vectors of the pairs' images.
        images: (P,) rows.
        captions: (P,) rows.
        k: neighbours of each, at most.
    """
    for places in groups(len(images)):
        near = nearest(vectors[places], images[places], captions[places], k)
        for place, others in zip(places.tolist(), near.tolist(), strict=True):
            yield from ((place, int(places[other]), n) for n, other in enumerate(others) if other != NOTHING)


def compose(pairs: Path, features: Path, neighbours: int, output: Path) -> dict[str, int]:
    """Write the triplets; return how many there are.

    Raises:
        UserError: no neighbours asked for, features of other images than the pairs', or no pair that is like another.
    """
    if neighbours < 1:
        raise UserError(f"--neighbours is {neighbours}, expected 1 or more triplets of a pair")
    prepared = read_pairs(pairs)
    texts = read_parquet(pairs / "texts.parquet")["text"].to_pylist()
    outputs = read_array(features / "image.npy")
    images = prepared.image_rows
    if images.max() >= len(outputs):
        raise UserError(f"{features} has {len(outputs)} images, the pairs name row {images.max()}; run `infer` again")
    mean = np.asarray(outputs, np.float64).mean(0).astype(np.float32)
    captions = np.array([min(rows, key=lambda row: len(texts[row])) for rows in prepared.text_rows])
    units, rows = ContentRows({}), []
    for place, other, n in like_pairs(unit(outputs[images] - mean), images, captions, neighbours):
        template = TEMPLATES[(place + n) % len(TEMPLATES)]
        text = units.text(template.format(a=texts[captions[place]], b=texts[captions[other]]))
        rows.append((images[place], images[other], text, images[place], NOTHING))
    if not rows:
        raise UserError(f"{pairs}: no two pairs with different images and captions, of which triplets are made")
    with atomic_path(output) as folder:
        folder.mkdir()
        units.write(folder)
        write_table(folder, dict(zip(COLUMNS, np.array(rows).T, strict=True)), [[]] * len(rows))
    return {"triplets": len(rows)}


def main() -> None:
    """Run from the command line."""
    options = parser(
        "compose",
        __doc__,
        "--pairs results/prepared/openclipart --features results/embeddings/clip_lite/towers/openclipart"
        " --neighbours 4 --output results/triplets/clip_lite/openclipart.4",
    )
    options.add_argument("--pairs", required=True, type=Path, help="training pairs, as `prepare` writes")
    options.add_argument("--features", required=True, type=Path, help="towers' outputs for the pairs")
    options.add_argument("--neighbours", type=int, default=4, metavar="N", help="triplets of a pair, at most (4)")
    options.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="triplets to write")
    run(options, compose)


if __name__ == "__main__":
    main()
