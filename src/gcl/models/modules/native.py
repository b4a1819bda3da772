"""The three graphs of a model that reads image and text together: what it makes of an image's pixels joins the text."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gcl.models.base import Graph


class Part(nn.Module):
    """A way through a model, of which it holds the weights. The names of inputs are those of the graph's."""

    def __init__(self, model: nn.Module, way: Callable[..., Any]) -> None:
        """Take the model and the way."""
        super().__init__()
        self.model, self.way = model, way


class Image(Part):
    """Pixels to vectors and image tokens."""

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, D) and what joins a text."""
        outputs: tuple[Tensor, Tensor] = self.way(pixels)
        return outputs


class Text(Part):
    """Token ids to vectors."""

    def forward(self, ids: Tensor) -> Tensor:
        """Return (B, D)."""
        vectors: Tensor = self.way(ids)
        return vectors


class Fused(Part):
    """Image tokens and token ids to vectors."""

    def forward(self, image_tokens: Tensor, ids: Tensor) -> Tensor:
        """Return (B, D)."""
        vectors: Tensor = self.way(image_tokens, ids)
        return vectors


class InTurns(Part):
    """Image tokens and token ids in a given order to vectors."""

    def forward(self, image_tokens: Tensor, ids: Tensor, order: Tensor) -> Tensor:
        """Return (B, D)."""
        vectors: Tensor = self.way(image_tokens, ids, order)
        return vectors


def native_graphs(
    model: nn.Module,
    image: Callable[[Tensor], tuple[Tensor, Tensor]],
    text: Callable[[Tensor], Tensor],
    fused: Callable[[Tensor, Tensor], Tensor],
    size: int,
    words: tuple[int, int],
    pad: int,
    contexts: tuple[int, int],
) -> dict[str, Graph]:
    """Return the graphs image, text and image_text, with examples.

    Args:
        model: whose weights they hold.
        image: pixels (B, 3, S, S) -> vectors (B, D), and image tokens that join a text.
        text: ids (B, L) -> vectors.
        fused: image tokens and ids -> vectors.
        size: of images.
        words: ids of the examples are from the first of these up to, without, the second.
        pad: id of padding.
        contexts: longest text alone, and beside an image.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, size, size, generator=generator)
    ids = torch.randint(*words, (3, 9), generator=generator)
    ids[1:, 5:] = pad
    with torch.inference_mode():
        tokens = image(pixels)[1].clone()
    free, inputs = ("batch", "tokens"), {"image_tokens": tokens, "ids": ids}
    return {
        "image": Graph(Image(model, image).eval(), {"pixels": pixels}, {"pixels": ("batch",)}),
        "text": Graph(Text(model, text).eval(), {"ids": ids}, {"ids": free}, contexts[0]),
        "image_text": Graph(Fused(model, fused).eval(), inputs, {"image_tokens": ("batch",), "ids": free}, contexts[1]),
    }
