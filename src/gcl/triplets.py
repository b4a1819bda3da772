"""Raw outputs to the unit vectors of all three modalities, and the loss of a recipe on them."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl.config import Loss
from gcl.losses import MODALITIES, gcl_loss, separation_loss


def triplet(outputs: Mapping[str, Tensor], fusion: str) -> Tensor:
    """Return (3, N, D) float32 unit vectors, in the order of MODALITIES, from raw outputs (N, D)."""
    image, text = outputs["image"].float(), outputs["text"].float()
    i, t = normalize(image, dim=1), normalize(text, dim=1)
    if fusion == "native":  # a loss without it doesn't ask for it
        fused = outputs["image_text"].float() if "image_text" in outputs else torch.zeros_like(i)
        return torch.stack([i, t, normalize(fused, dim=1)])
    fused = image + text if fusion == "sum_raw" else i + t
    return torch.stack([i, t, normalize(fused, dim=1)])


def recipe_loss(
    stacked: Tensor,
    loss: Loss,
    temperature: float | Tensor,
    masked: Tensor | None,
    sentences: Tensor | None,
    rows: slice | None = None,
) -> Tensor:
    """Return the loss of unit vectors (3, N, D); with `rows` the part of these samples.

    Args:
        stacked: As triplet returns them.
        loss: Of the recipe.
        temperature: Its temperature, or the model's.
        masked: (R, N) bool, see gcl_loss; used if the recipe says so.
        sentences: (N, F) unit features of the captions by a frozen sentence encoder, where loss.separation > 0.
        rows: R samples.
    """
    total = gcl_loss(
        stacked, loss.directions, loss.denominator, temperature, masked if loss.mask_duplicates else None, rows
    )
    if loss.separation:
        if sentences is None:
            raise ValueError("loss.separation needs features of the captions (--sentences)")
        start, stop, _ = (rows or slice(None)).indices(stacked.shape[1])
        distance = 1 - sentences[start:stop] @ sentences.T
        distance.diagonal(start).zero_()
        image, text = (stacked[MODALITIES.index(m)] for m in ("image", "text"))
        total = total + loss.separation * separation_loss(image, text, distance, temperature, rows)
    return total
