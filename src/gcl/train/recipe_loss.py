"""Raw outputs to the unit vectors of all three modalities, and the loss of a recipe on them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl.common.errors import UserError
from gcl.config.recipes import Loss
from gcl.losses.gcl import gcl_loss, separation_loss
from gcl.losses.maxsim import maxsim_loss
from gcl.losses.ncl import ncl_loss

CL = {"image>text": 1, "text>image": 1}


class UnitVectors(NamedTuple):
    """Unit vectors of a batch in all modalities."""

    vectors: Tensor  # (V, N, D) float32 or float64 of images, texts and, where fusion is native, both together
    mix: Tensor  # (2, N) float64: both together are mix[0] * image + mix[1] * text; zeros where fusion is native

    def part(self, chunk: slice) -> "UnitVectors":
        """Return those of some samples."""
        return UnitVectors(self.vectors[:, chunk], self.mix[:, chunk])

    def backward(self, gradient: "UnitVectors") -> None:
        """Go on with a gradient at the vectors and the mix."""
        pairs = [(x, g) for x, g in zip(self, gradient, strict=True) if x.requires_grad]
        torch.autograd.backward([x for x, _ in pairs], [g for _, g in pairs])


def joined(parts: Sequence[UnitVectors]) -> UnitVectors:
    """Return the units of samples that were encoded in parts."""
    return UnitVectors(torch.cat([part.vectors for part in parts], 1), torch.cat([part.mix for part in parts], 1))


def triplet(outputs: Mapping[str, Tensor], fusion: str) -> UnitVectors:
    """Return unit vectors from raw outputs (N, D) by modality."""
    outputs = {m: x.to(torch.promote_types(x.dtype, torch.float32)) for m, x in outputs.items()}
    image, text = outputs["image"], outputs["text"]
    units = [normalize(image, dim=1), normalize(text, dim=1)]
    if fusion == "native":  # a loss without it doesn't ask for it
        if "image_text" in outputs:
            units.append(normalize(outputs["image_text"], dim=1))
        return UnitVectors(torch.stack(units), torch.zeros(2, len(image), dtype=torch.float64, device=image.device))
    added = (image, text) if fusion == "sum_raw" else units
    lengths = torch.stack([part.double().norm(dim=1) for part in added])
    whole = (added[0].double() + added[1].double()).norm(dim=1)
    return UnitVectors(torch.stack(units), lengths / whole)


def needs_fused(loss: Loss) -> bool:
    """Tell whether a loss looks at image and text together."""
    return loss.denominator != "target_only" or any("image_text" in direction for direction in loss.directions)


def recipe_loss(
    units: UnitVectors,
    loss: Loss,
    temperature: float | Tensor,
    masked: Tensor | None,
    sentences: Tensor | None,
    rows: slice | None = None,
    late: int = 1,
) -> Tensor:
    """Return the loss of a batch; with `rows` the part of these samples.

    Args:
        units: As triplet returns them.
        loss: Of the recipe.
        temperature: Its temperature, or the model's.
        masked: (2, P) pairs of samples, see gcl_loss; used if the recipe says so.
        sentences: (N, F) unit features of the captions by a frozen sentence encoder, where loss.separation > 0.
        rows: R samples.
        late: vectors of an item, of the backbone.
    """
    vectors, mix = units
    masked = masked if loss.mask_duplicates else None
    if late > 1:
        if loss.balanced or loss.separation or loss.widths:
            raise UserError("loss.balanced, separation and widths are for backbones of one vector; leave them out")
        return maxsim_loss(vectors, loss.directions, loss.denominator, temperature, late, masked, rows)
    if loss.balanced:
        if loss.directions != CL or loss.denominator != "target_only":
            raise UserError(
                "loss.balanced is for image>text and text>image with target_only; leave it out, or use those"
            )
        total = ncl_loss(vectors[0], vectors[1], temperature, masked, rows)
    else:
        total = gcl_loss(vectors, loss.directions, loss.denominator, temperature, masked, rows, mix)
    if loss.separation:
        if sentences is None:
            raise UserError("loss.separation needs features of the captions (--sentences)")
        start, stop, _ = (rows or slice(None)).indices(vectors.shape[1])
        distance = 1 - sentences[start:stop] @ sentences.T
        distance.diagonal(start).zero_()
        total = total + loss.separation * separation_loss(vectors[0], vectors[1], distance, temperature, rows)
    return total
