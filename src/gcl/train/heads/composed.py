"""Triplets beside the pairs: their tower outputs, and the loss of a batch of them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl.common.arrays import read_array
from gcl.common.errors import UserError
from gcl.data.triplets import read_triplets
from gcl.losses.composed import composed_loss, slerp
from gcl.train.heads.outputs import Heads, check_towers, outputs_of


class ComposedBatch(NamedTuple):
    """Rows of the features of N triplets, below 0 for none."""

    images: Tensor  # (I, F) features that heads take
    text: Tensor  # (T, G)
    query_image: Tensor  # (N,)
    between_image: Tensor
    query_text: Tensor
    candidate_image: Tensor
    candidate_text: Tensor
    negatives: Tensor  # (M,) images


class Composed(NamedTuple):
    """Tower outputs of training triplets."""

    images: Tensor  # (I, F)
    text: Tensor  # (T, G)
    rows: dict[str, Tensor]  # (N,) rows of both by data.triplets.COLUMNS, NOTHING for none
    negatives: list[list[int]]  # rows of images

    def batch(self, size: int, generator: torch.Generator) -> ComposedBatch:
        """Draw so many triplets, or all, each with one of its negatives if there is any."""
        order = torch.randperm(len(self.negatives), generator=generator)[:size].tolist()
        chance = torch.rand(len(order), generator=generator).tolist()
        drawn = [
            own[int(c * len(own))] for own, c in zip((self.negatives[i] for i in order), chance, strict=True) if own
        ]
        rows = {name: rows[order] for name, rows in self.rows.items()}
        return ComposedBatch(self.images, self.text, **rows, negatives=torch.tensor(drawn, dtype=torch.long))


def read_composed(triplets: Path, features: Path, features_of_pairs: Path) -> Composed:
    """Read tower outputs of a folder of triplets; where it has no images of its own, theirs are the pairs'.

    Raises:
        UserError: the outputs are another tower's, or of other triplets.
    """
    triplets_read = read_triplets(triplets)
    check_towers(features, features_of_pairs)
    own = features / "image.npy"
    images = np.array(read_array(own if own.exists() else features_of_pairs / "image.npy"))
    text = np.array(read_array(features / "text.npy"))
    for name, rows in triplets_read.columns.items():
        if rows.max() >= len(images if name.endswith("image") else text):
            raise UserError(f"{features} has fewer rows than {triplets} names as {name}; run `infer` again")
    tensors = {name: torch.from_numpy(rows) for name, rows in triplets_read.columns.items()}
    return Composed(torch.from_numpy(images), torch.from_numpy(text), tensors, triplets_read.negatives)


def composed_batch_loss(
    batch: ComposedBatch,
    heads: Heads,
    fusion: str,
    share: float,
    temperature: float,
) -> Tensor:
    """Return the loss of composed queries.

    Args:
        batch: of triplets.
        heads: by modality, features (B, F) -> raw outputs (B, D).
        fusion: sum_raw or sum_unit.
        share: where a query's image lies between its two, if it has two.
        temperature: of the loss.
    """

    def outputs(modality: str, rows: Tensor) -> Tensor:
        return outputs_of(heads[modality], batch.images if modality == "image" else batch.text, rows, fusion)

    image, second = outputs("image", batch.query_image), outputs("image", batch.between_image)
    image = torch.where((batch.between_image >= 0)[:, None], slerp(image, second, share), image)
    queries = normalize(image + outputs("text", batch.query_text), dim=1)
    images = torch.cat([batch.candidate_image, batch.negatives])
    texts = torch.cat([batch.candidate_text, torch.full_like(batch.negatives, -1)])
    candidates = normalize(outputs("image", images) + outputs("text", texts), dim=1)
    n = len(queries)
    same = (images[:n, None] == images) & (texts[:n, None] == texts)
    return composed_loss(queries, candidates, temperature, same)
