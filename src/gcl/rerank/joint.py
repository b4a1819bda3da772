"""Scores of pairs by a network that reads both: its inputs, and the exported graphs."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gcl.common.arrays import Floats, Ints
from gcl.common.progress import progress
from gcl.data.records import read_parquet
from gcl.infer.encoder import Encoder, decoded, open_workers, padded, shortened, tokenize
from gcl.infer.session import open_session
from gcl.models.tokenizers import pad_of
from gcl.rerank.features import Items
from gcl.rerank.lists import RankedLists
from gcl.retrieve.item_vectors import NOTHING

WORDS = 24  # tokens of a text, at most
SHORTEST = 2  # tokens that a graph takes, at least
BATCH = 64  # pairs that are read at a time


class ImageTokens:
    """Image tokens of a prepared folder by row, made when first asked for: lists hold few of a pool's images."""

    def __init__(self, prepared: Path, model: Encoder, reduce: Callable[[np.ndarray], np.ndarray] = np.asarray) -> None:
        """Take an opened image tower, and what becomes of its tokens (B, P, W)."""
        self.locations = read_parquet(prepared / "locations.parquet")["location"]
        self.hashes = read_parquet(prepared / "images.parquet")["sha256"]
        self.model, self.reduce = model, reduce
        self.known: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Count the images."""
        return len(self.locations)

    def __getitem__(self, rows: Ints) -> np.ndarray:
        """Return (n, P, W) of some rows.

        Raises:
            UserError: an image is missing, unreadable, or not the one that was prepared.
        """
        new = sorted({*rows.tolist()} - self.known.keys())
        if new:
            self.embed(new)
        return np.stack([self.known[row] for row in rows.tolist()])

    def embed(self, rows: list[int]) -> None:
        """Embed some images, a few batches at a time."""
        some, size = pa.array(rows), self.model.batch
        stream = decoded(
            self.locations.take(some), self.hashes.take(some), self.model.preprocess, self.model.threads, size
        )
        batches = iter(progress(stream, f"image tokens (batches of {size})", "batch", -(-len(rows) // size)))
        left = iter(rows)
        while tokens := self.model.map(self.tokens, islice(batches, BATCH // size or 1)):
            for part in tokens:
                self.known |= zip(islice(left, len(part)), part, strict=True)

    def tokens(self, pixels: np.ndarray) -> np.ndarray:
        """Return what is kept of a batch of pixels."""
        return self.reduce(self.model.image.run(["image_tokens"], {"pixels": pixels})[0])


class Contents(NamedTuple):
    """What is read of a benchmark: image tokens and token ids, row by row of its images and texts."""

    images: Any  # rows (n,) -> (n, P, W) image tokens, or (n, TOKENS, W) compressed
    ids: list[list[int]]  # of the texts, at most WORDS each, the last the one that ends a text
    pad: int

    def prepare(self, lists: RankedLists) -> None:
        """Embed all images of some lists at once."""
        rows = np.unique(np.concatenate([lists.queries.images, lists.candidates.images]))
        if len(rows := rows[rows != NOTHING]):
            self.images[rows]

    def side(self, items: Items, rows: Ints) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return images, whether there is one, and padded ids of some items."""
        images, texts = items.images[rows], items.texts[rows].tolist()
        ids = padded([self.ids[t] if t != NOTHING else [] for t in texts], self.pad, None)
        if ids.shape[1] < SHORTEST:
            ids = np.pad(ids, ((0, 0), (0, SHORTEST - ids.shape[1])), constant_values=self.pad)
        return self.images[np.maximum(images, 0)], (images != NOTHING).astype(np.float32), ids


def read_contents(prepared: Path, tokens: Path, reduce: Callable[[np.ndarray], np.ndarray] = np.asarray) -> Contents:
    """Open a prepared benchmark's images as tokens by an exported image tower, and tokenise its texts."""
    model = open_workers(tokens, "cpu", 0, ("image",))
    rows = [row[1:] for row in tokenize(model, read_parquet(prepared / "texts.parquet")["text"].to_pylist())]
    return Contents(
        ImageTokens(prepared, model, reduce), [shortened(row, WORDS) for row in rows], pad_of(model.tokenizer)
    )


def like_lengths(lists: RankedLists, places: Ints, contents: Contents) -> Iterator[Ints]:
    """Yield places of pairs that are read together: of like lengths, so that little of a batch is padding."""
    sizes = np.array([*map(len, contents.ids), 0])  # the last is that of NOTHING
    lengths = (sizes[side.texts[places]] for side in (lists.candidates, lists.queries))
    order = np.lexsort([*lengths])
    for start in range(0, len(order), BATCH):
        yield places[order[start : start + BATCH]]


class JointReranker:
    """A network that was fitted for a seed, and what it reads of a benchmark."""

    def __init__(self, folder: Path, weight: float, share: float, prepared: Path, tokens: Path) -> None:
        """Open the graphs.

        Args:
            folder: what `fit_joint` wrote for a seed.
            weight: of the first stage's score.
            share: of what is read.
            prepared: the benchmark.
            tokens: the exported towers that give image tokens.

        Raises:
            UserError: as `read_contents`.
        """
        self.weight, self.share = np.float32(weight), np.float32(share)
        compress = open_session(folder / "compress.onnx", "cpu", 1)
        self.contents = read_contents(prepared, tokens, lambda x: compress.run(None, {"image_tokens": x})[0])
        self.session: Any = open_session(folder / "joint.onnx", "cpu", 0)
        self.known: dict[tuple[int, ...], float] = {}  # pools hold the same pairs

    def scores(self, lists: RankedLists) -> Floats:
        """Return (n,) scores of the pairs of some lists; a pair is read once whatever pools it is in."""
        keys = [*zip(*(c.tolist() for c in (*lists.queries[:2], *lists.candidates[:2])), strict=True)]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        self.contents.prepare(lists)
        parts = [*like_lengths(lists, np.array(new, np.int64), self.contents)]
        for places in progress(parts, f"read pairs (batches of {BATCH})", "batch"):
            self.known |= zip([keys[place] for place in places], self.read(lists, places).tolist(), strict=True)
        read = np.array([self.known[key] for key in keys], np.float32)
        return self.share * read + self.weight * lists.scores

    def read(self, lists: RankedLists, places: Ints) -> Floats:
        """Run the graph on some pairs."""
        inputs: dict[str, np.ndarray] = {}
        for name, items in (("query", lists.queries), ("candidate", lists.candidates)):
            image, has_image, ids = self.contents.side(items, places)
            inputs |= {f"{name}_image": image, f"{name}_has_image": has_image, f"{name}_ids": ids}
        scores: Floats = self.session.run(None, inputs)[0]
        return scores
