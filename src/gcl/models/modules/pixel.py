"""The torch module of one tower for images and drawn text."""

from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gcl.common.errors import UserError
from gcl.config.backbones import Preprocess

HEIGHT, GREY = 16, 127  # as models/pixel.py describes


def drawn(ids: Tensor, columns: Tensor, widths: Tensor, side: int, lines: int) -> Tensor:
    """Draw texts in lines; return (B, lines * 16, side) of 0 and 1, 1 where there is ink.

    Args:
        ids: (B, L) rows of the glyphs, 0 behind the end.
        columns: (V, 16, 16) glyphs, column by column.
        widths: (V,) columns that each takes, at most 16.
        side: pixels of a line.
        lines: those beyond are not drawn.

    A line holds what a text's running width has between two multiples of the side less the text's widest glyph: so
    VC2L breaks lines, and no glyph is cut.
    """
    width = widths[ids]
    ends = width.cumsum(1)
    line = torch.div(ends, side - width.amax(1, keepdim=True), rounding_mode="floor")
    before = (line[:, None, :] < line[:, :, None]).to(width.dtype)  # (B, L, L): characters on earlier lines
    start = ends - width - (before * width[:, None, :]).sum(2)
    offset = torch.arange(HEIGHT, device=ids.device)
    place = (line * side + start)[:, :, None] + offset
    is_drawn = (offset < width[:, :, None]) & (line[:, :, None] < lines)
    dump = lines * side  # one more column takes what is not drawn
    place = torch.where(is_drawn, place, dump).flatten(1)[:, :, None].expand(-1, -1, HEIGHT)
    values = columns[ids].flatten(1, 2) * is_drawn.to(columns.dtype).flatten(1)[:, :, None]
    empty = torch.zeros_like(values[:, :1]).expand(-1, dump + 1, -1)
    strip = empty.scatter(1, place, values)[:, :dump]
    return strip.reshape(-1, lines, side, HEIGHT).transpose(2, 3).reshape(-1, lines * HEIGHT, side)


class Pixel(nn.Module):
    """encode_triplet gives unit vectors (B, D) by modality.

    config: vision {timm_model_name, ...its arguments}, embed_dim (of a projection head; none: the trunk's features).
    """

    def __init__(self, config: dict[str, Any], how: Preprocess, columns: np.ndarray, widths: np.ndarray) -> None:
        """Make the model with random weights.

        Raises:
            UserError: no such trunk.
        """
        super().__init__()
        vision = dict(config["vision"])
        try:
            self.trunk = timm.create_model(vision.pop("timm_model_name"), num_classes=0, **vision)
        except (RuntimeError, TypeError, KeyError, ValueError) as error:
            raise UserError(f"model_cfg makes no image trunk: {error}") from error
        self.size = how.size
        self.proj: nn.Module | None = None
        if "embed_dim" in config:
            features, width = self.trunk.num_features, config["embed_dim"]
            hidden = (features + width) // 2
            self.proj = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, width, bias=False))
        self.register_buffer("columns", torch.from_numpy(columns).float(), persistent=False)
        self.register_buffer("widths", torch.from_numpy(widths), persistent=False)
        colors = (torch.tensor([GREY, 0])[:, None] / 255 - torch.tensor(how.mean)) / torch.tensor(how.std)
        self.register_buffer("grey", colors[0][:, None, None], persistent=False)
        self.register_buffer("ink", colors[1][:, None, None], persistent=False)

    def text_quadrants(self, ids: Tensor, count: int) -> list[Tensor]:
        """Return so many quadrants (B, 3, S, S) through which texts flow."""
        bits = drawn(ids, self.columns, self.widths, self.size, count * self.size // HEIGHT)[:, None]
        return list((self.grey + bits * (self.ink - self.grey)).chunk(count, 2))

    def canvas(self, quadrants: list[Tensor]) -> Tensor:
        """Return (B, 3, 2 S, 2 S) of four quadrants in reading order."""
        upper, lower = torch.cat(quadrants[:2], 3), torch.cat(quadrants[2:], 3)
        return torch.cat([upper, lower], 2)

    def vectors(self, quadrants: list[Tensor], head: bool) -> Tensor:
        """Return unit vectors (B, D), or without head the trunk's features."""
        features = self.trunk(self.canvas(quadrants))
        if self.proj is None:
            return normalize(features, dim=1)
        return normalize(self.proj(features), dim=1) if head else features

    def encode_image(self, pixels: Tensor, head: bool = True) -> Tensor:
        """Return (B, D) of images (B, 3, S, S) alone: the other quadrants are empty."""
        empty = (0 * pixels) + self.grey
        return self.vectors([pixels, empty, empty, empty], head)

    def encode_text(self, ids: Tensor, head: bool = True) -> Tensor:
        """Return (B, D) of texts alone."""
        return self.vectors(self.text_quadrants(ids, 4), head)

    def encode_fused(self, pixels: Tensor, ids: Tensor, head: bool = True) -> Tensor:
        """Return (B, D) of images with their texts."""
        return self.vectors([pixels, *self.text_quadrants(ids, 3)], head)

    def encode_triplet(self, pixels: Tensor, ids: Tensor, fused: bool = True) -> dict[str, Tensor]:
        """Return (B, D) by modality."""
        apart = {"image": self.encode_image(pixels), "text": self.encode_text(ids)}
        return apart | {"image_text": self.encode_fused(pixels, ids)} if fused else apart

    def set_grad_checkpointing(self) -> None:
        """Trade compute for memory."""
        self.trunk.set_grad_checkpointing()
