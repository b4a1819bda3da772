"""What a re-ranker's lists teach: the loss of their order, beside that of the pairs.

For L queries with k candidates each, scored w by the re-ranker and s by cosine of the embedder at temperature t:

    L = 1 / L sum_j KL( softmax_k(w_jk) || softmax_k(s_jk / t) )
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl.common.arrays import read_array
from gcl.common.errors import UserError
from gcl.train.heads.outputs import Heads, check_towers, outputs_of

LISTS = 64  # of a step


class Taught(NamedTuple):
    """Tower outputs of queries and candidates, and the re-ranker's scores."""

    images: Tensor  # (I, F)
    text: Tensor  # (T, G)
    rows: dict[str, Tensor]  # query_image, query_text (L,), candidate_image, candidate_text (L, k); below 0 for none
    scores: Tensor  # (L, k), minus infinity where a list is shorter

    def batch(self, generator: torch.Generator) -> "Taught":
        """Draw some lists."""
        chosen = torch.randperm(len(self.scores), generator=generator)[:LISTS]
        return self._replace(rows={name: x[chosen] for name, x in self.rows.items()}, scores=self.scores[chosen])


def read_taught(folder: Path, seed: int, features_of_pairs: Path) -> Taught:
    """Read what `gcl teach` wrote for a seed.

    Raises:
        UserError: it has no lists of the seed, or comes from other towers.
    """
    if not (path := folder / f"seed{seed}/lists.npz").exists():
        raise UserError(f"{folder} has no lists of seed {seed}; give the recipe that teaches the same seeds")
    check_towers(folder, features_of_pairs)
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    images, text = (torch.from_numpy(np.array(read_array(folder / f"{name}.npy"))) for name in ("image", "text"))
    return Taught(images, text, arrays, arrays.pop("scores"))


def distil_loss(vectors: Tensor, candidates: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Compute the loss.

    Args:
        vectors: (L, D) unit vectors of queries.
        candidates: (L, k, D) unit vectors.
        scores: (L, k) of the re-ranker, minus infinity for none.
        temperature: t, above 0.
    """
    there = torch.isfinite(scores)
    own = ((candidates @ vectors[:, :, None])[:, :, 0] / temperature).masked_fill(~there, -torch.inf).log_softmax(1)
    theirs = scores.log_softmax(1)
    terms = theirs.exp() * (theirs - own)
    return terms.masked_fill(~there, 0.0).sum(1).mean()


def taught_loss(batch: Taught, heads: Heads, fusion: str, temperature: float) -> Tensor:
    """Return the loss of some lists.

    Args:
        batch: lists.
        heads: by modality, features (B, F) -> raw outputs (B, D).
        fusion: sum_raw or sum_unit.
        temperature: of the loss.
    """
    parts = []
    for modality, features in (("image", batch.images), ("text", batch.text)):
        rows = torch.cat([batch.rows[f"{side}_{modality}"].flatten() for side in ("query", "candidate")])
        used, places = torch.unique(rows, return_inverse=True)  # an item is in many lists
        parts.append(outputs_of(heads[modality], features, used, fusion)[places])
    # Where a list is shorter there is no item: any direction does, its share is zero.
    vectors = normalize(parts[0] + parts[1], dim=1)
    n = len(batch.scores)
    return distil_loss(vectors[:n], vectors[n:].view(*batch.scores.shape, -1), batch.scores, temperature)
