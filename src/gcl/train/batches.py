"""Which pairs make a step, and their pixels and token ids: the same whatever the number of workers or ranks."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gcl.common.errors import UserError
from gcl.config.recipes import Recipe
from gcl.data.images import MARGIN, open_image, to_array
from gcl.data.records import read_pairs, read_parquet
from gcl.models.base import Built
from gcl.models.tokenizers import to_ids

AHEAD = 2  # batches that are decoded ahead of use
RATIO = (3 / 4, 4 / 3)  # of a random crop's sides, as in torchvision


class Draw(NamedTuple):
    """What a step sees of B pairs."""

    rows: np.ndarray  # (B,) pairs
    views: np.ndarray  # (B,) in [0, 1): which caption
    mirrored: np.ndarray  # (B,) bool
    crops: np.ndarray  # (B, 4) in [0, 1): area, ratio, left, top of a random crop


class Order:
    """The draws of a seed: a function of the step alone, so that a resumed run goes on as it would have."""

    def __init__(self, pairs: int, recipe: Recipe, seed: int) -> None:
        """Take the number of pairs; those that don't fill the last batch of an epoch wait for another order."""
        self.per_epoch = pairs // recipe.batch_size
        if self.per_epoch == 0:
            raise UserError(f"{pairs} pairs don't fill one batch of {recipe.batch_size}; lower batch_size")
        self.size = recipe.batch_size

        @lru_cache(maxsize=2)
        def epoch(number: int) -> Draw:
            generator = np.random.default_rng([seed, number])
            rows = generator.permutation(pairs)
            views = generator.random(pairs)
            mirrored = generator.random(pairs) < (0.5 if recipe.flip else 0.0)
            return Draw(rows, views, mirrored, generator.random((pairs, 4)))

        self.epoch = epoch

    def draw(self, step: int) -> Draw:
        """Return the draw of a step."""
        number, at = divmod(step, self.per_epoch)
        part = slice(at * self.size, (at + 1) * self.size)
        return Draw(*(x[part] for x in self.epoch(number)))


def crop_box(width: int, height: int, smallest: float, chance: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of a crop of `smallest` to 1 of the area; chance is (4,) in [0, 1)."""
    area = width * height * (smallest + (1 - smallest) * chance[0])
    low, high = np.log(RATIO)
    ratio = np.exp(low + (high - low) * chance[1])
    w, h = min(width, round((area * ratio) ** 0.5)), min(height, round((area / ratio) ** 0.5))
    left, top = int(chance[2] * (width - w + 1)), int(chance[3] * (height - h + 1))
    return left, top, left + max(w, 1), top + max(h, 1)


class Batch(NamedTuple):
    """One rank's part of a step, with the content ids of the whole batch."""

    pixels: Tensor  # (b, 3, S, S) float32
    ids: Tensor  # (b, L) int64
    image_ids: Tensor  # (B,) of the whole batch
    text_ids: Tensor  # (B,)


class Loader:
    """Reads the pairs of a prepared folder step by step, in threads ahead of use."""

    def __init__(self, pairs: Path, recipe: Recipe, built: Built, seed: int, part: slice, workers: int) -> None:
        """Take the part of each batch that this rank reads."""
        prepared = read_pairs(pairs)
        self.image_rows, self.text_rows = prepared.image_rows, prepared.text_rows
        self.locations = read_parquet(pairs / "locations.parquet")["location"].to_pylist()
        self.texts = read_parquet(pairs / "texts.parquet")["text"].to_pylist()
        self.order = Order(len(self.image_rows), recipe, seed)
        self.built, self.crop, self.part, self.workers = built, recipe.full.crop, part, workers

    def pixels(self, location: str, mirrored: bool, chance: np.ndarray) -> np.ndarray:
        """Read one image: crop if the recipe does, preprocess, mirror."""
        size = self.built.preprocess.size
        image = open_image(location, round(MARGIN * size / self.crop**0.5))
        if self.crop < 1:
            image = image.crop(crop_box(*image.size, self.crop, chance))
            image = image.resize((size, size), 3)  # bicubic
        array = to_array(image, self.built.preprocess)
        return array[:, :, ::-1] if mirrored else array

    def steps(self, start: int, total: int) -> Iterator[Batch]:
        """Yield the batches of steps start to total - 1."""
        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            ahead = [self.submit(pool, step) for step in range(start, min(start + AHEAD, total))]
            for step in range(start, total):
                if step + AHEAD < total:
                    ahead.append(self.submit(pool, step + AHEAD))
                yield self.gather(step, ahead.pop(0))

    def submit(self, pool: ThreadPoolExecutor, step: int) -> list[Future[np.ndarray]]:
        """Start reading the images of a step."""
        draw = Draw(*(x[self.part] for x in self.order.draw(step)))
        return [
            pool.submit(self.pixels, self.locations[self.image_rows[row]], bool(mirrored), chance)
            for row, _, mirrored, chance in zip(*draw, strict=True)
        ]

    def gather(self, step: int, futures: list[Future[np.ndarray]]) -> Batch:
        """Wait for the images and tokenise the captions."""
        draw = self.order.draw(step)
        texts = [self.text_rows[r][int(v * len(self.text_rows[r]))] for r, v in zip(draw.rows, draw.views, strict=True)]
        pixels = torch.from_numpy(np.stack([future.result() for future in futures]))
        captions = [self.texts[t] for t in texts[self.part]]
        ids = torch.from_numpy(to_ids(self.built.tokenizer, captions, self.built.clean))
        return Batch(pixels, ids, torch.from_numpy(self.image_rows[draw.rows]), torch.tensor(texts))
