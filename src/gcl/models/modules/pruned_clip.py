"""TinyCLIP's auto-inherited variants: CLIP towers whose width, heads and inner widths were pruned one by one.

The residual width is any number, each block has its own number of heads and MLP width, and whole
sub-layers may be gone. open_clip's modules can't hold that; every size is read from the tensors.
"""

import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    State = dict[str, Tensor]

HEAD_WIDTH = 64


class Attention(nn.Module):
    """Multi-head attention whose inner width (64 per head) differs from the residual width."""

    def __init__(self, inner: int, width: int) -> None:
        """Take the inner and the residual width."""
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * inner, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * inner))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, x: Tensor, is_causal: bool) -> Tensor:
        """Return (B, L, width) of (B, L, width)."""
        joined = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        split = joined.unflatten(-1, (3, -1, HEAD_WIDTH))  # (B, L, 3, heads, 64)
        q, k, v = (part.transpose(1, 2) for part in split.unbind(2))
        mixed = scaled_dot_product_attention(q, k, v, is_causal=is_causal)  # (B, heads, L, 64)
        output: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return output


class Block(nn.Module):
    """A pre-norm block; an absent sub-layer is the identity."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], width: int, activation: type[nn.Module]) -> None:
        """Take the block's shapes by name within the block."""
        super().__init__()
        for name in ("ln_1", "ln_2"):
            if f"{name}.weight" in shapes:
                self.add_module(name, nn.LayerNorm(width))
        self.attn = None
        if "attn.in_proj_weight" in shapes:
            self.attn = Attention(shapes["attn.in_proj_weight"][0] // 3, width)
        self.mlp = None
        if "mlp.c_fc.weight" in shapes:
            inner = shapes["mlp.c_fc.weight"][0]
            self.mlp = nn.Sequential()
            for name, part in (
                ("c_fc", nn.Linear(width, inner)),
                ("gelu", activation()),
                ("c_proj", nn.Linear(inner, width)),
            ):
                self.mlp.add_module(name, part)

    def forward(self, x: Tensor, is_causal: bool) -> Tensor:
        """Return (B, L, width) of (B, L, width)."""
        if self.attn is not None:
            x = x + self.attn(self.ln_1(x), is_causal)
        if self.mlp is not None:
            x = x + self.mlp(self.ln_2(x))
        return x


class Transformer(nn.Module):
    """The blocks of one tower."""

    def __init__(self, state: "State", prefix: str, width: int, activation: type[nn.Module], depth: int) -> None:
        """Take the tensors of the whole model and the prefix of this tower's blocks."""
        super().__init__()
        blocks = []
        for i in range(depth):
            start = f"{prefix}{i}."
            shapes = {k.removeprefix(start): tuple(v.shape) for k, v in state.items() if k.startswith(start)}
            blocks.append(Block(shapes, width, activation))
        self.resblocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, is_causal: bool) -> Tensor:
        """Run all blocks."""
        for block in self.resblocks:
            x = block(x, is_causal)
        return x


class Visual(nn.Module):
    """The image tower: patches, class token, blocks, projection."""

    def __init__(self, state: "State", activation: type[nn.Module]) -> None:
        """Take the tensors of the whole model."""
        super().__init__()
        width, _, patch, _ = state["visual.conv1.weight"].shape
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty_like(state["visual.positional_embedding"]))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        prefix = "visual.transformer.resblocks."
        self.transformer = Transformer(state, prefix, width, activation, depth_of(state, prefix))
        self.proj = nn.Parameter(torch.empty_like(state["visual.proj"]))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, D) raw outputs of (B, 3, S, S) pixels."""
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)  # (B, P, width)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        x = self.ln_pre(torch.cat([first, patches], 1) + self.positional_embedding)
        output: Tensor = self.ln_post(self.transformer(x, False)[:, 0]) @ self.proj
        return output


class PrunedClip(nn.Module):
    """Image and text towers of any pruned widths, with open_clip's names and calls."""

    def __init__(self, state: "State", activation: type[nn.Module] = nn.GELU) -> None:
        """Take tensors by open_clip's names; only their shapes are used."""
        super().__init__()
        self.visual = Visual(state, activation)
        self.token_embedding = nn.Embedding(*state["token_embedding.weight"].shape)
        self.positional_embedding = nn.Parameter(torch.empty_like(state["positional_embedding"]))
        width = self.positional_embedding.shape[1]
        prefix = "transformer.resblocks."
        self.transformer = Transformer(state, prefix, width, activation, depth_of(state, prefix))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty_like(state["text_projection"]))
        self.logit_scale = nn.Parameter(torch.empty(()))
        self.context_length = len(self.positional_embedding)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return (B, D) raw outputs."""
        output: Tensor = self.visual(pixels)
        return output

    def encode_text(self, ids: Tensor) -> Tensor:
        """Return (B, D) raw outputs of the token with the largest id, the end of the text."""
        x = self.token_embedding(ids) + self.positional_embedding
        x = self.ln_final(self.transformer(x, True))
        return x[torch.arange(x.shape[0], device=x.device), ids.argmax(1)] @ self.text_projection


def depth_of(state: "State", prefix: str) -> int:
    """Count blocks, those included that lost all sub-layers but stand before others."""
    numbers = [int(m.group(1)) for key in state if (m := re.match(re.escape(prefix) + r"(\d+)\.", key))]
    return 1 + max(numbers, default=-1)


def is_pruned(state: "State") -> bool:
    """Tell whether some block's sizes differ from what its width says (or a sub-layer is gone)."""
    for key, value in state.items():
        if key.endswith("attn.in_proj_weight") and value.shape[0] != 3 * value.shape[1]:
            return True
        if key.endswith("mlp.c_fc.weight") and value.shape[0] != 4 * value.shape[1]:
            return True
    return any(
        key.endswith("ln_1.weight") and key.replace("ln_1.weight", "attn.in_proj_weight") not in state for key in state
    )
