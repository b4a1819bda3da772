"""The recurrent cell that fuses layer after layer of both towers (ReT, arXiv 2503.01980), on layers that are pooled.

K learned tokens H go through the layers, with the same weights at each. At layer l, with the text's and the image's
tokens after an adapter of that layer:

    H <- H + positions;  N = norm(H);  R = H + attention(N, N, N)
    A_t, A_v = attention(N, text), attention(N, image)
    g_t = sigmoid(W_t A_t + b) m_t,  g_v alike          how much of each comes in; m is 0 for what is absent, else 1
    f = sigmoid(m_t U_t A_t + m_v U_v A_v + c)          how much stays
    H <- f R + g_t A_t + g_v A_v;  H <- H + mlp(norm(H))

The vector is a projection of the mean of the K tokens; for late interaction, the K projections one after the other,
each of length 1 / sqrt(K), so that they are a unit vector together.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel

from gcl.common.errors import UserError


class Sizes(NamedTuple):
    """What `model_cfg.cell` of a row may say."""

    width: int = 256
    tokens: int = 1
    heads: int = 4
    hidden: int = 512  # of its mlp
    gate_prior: float = -1.0  # b: at first little comes in
    keep_prior: float = 2.0  # c: and most stays
    tanh: bool = False  # of what is added up, R, A_t and A_v


def sizes_of(config: dict[str, Any]) -> Sizes:
    """Return what a row's `model_cfg` says of the cell.

    Raises:
        UserError: a name that is none of a cell's.
    """
    try:
        return Sizes(**config.get("cell", {}))
    except TypeError as error:
        raise UserError(f"model_cfg.cell: {error}; expected some of {', '.join(Sizes._fields)}") from error


def positions(count: int, width: int) -> Tensor:
    """Return (1, count, width) sinusoids."""
    place = torch.arange(count)[:, None]
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    return torch.stack([torch.sin(place * rate), torch.cos(place * rate)], 2).flatten(1)[None]


class Attention(nn.Module):
    """torch's MultiheadAttention over few tokens, by its names: as plain products it exports to few nodes."""

    def __init__(self, width: int, heads: int, bias: bool = True) -> None:
        """Make random weights."""
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width)) if bias else None
        self.out_proj = nn.Linear(width, width, bias=bias)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return (B, K, W) from queries (B, K, W) and keys (B, T, W), which are the values too."""
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        parts = zip((queries, keys, keys), self.in_proj_weight.chunk(3), biases, strict=True)
        projected = [nn.functional.linear(x, weight, bias) for x, weight, bias in parts]
        count, width = projected[0].shape[2] // self.heads, projected[0].shape[2]
        q, k, v = (x.reshape(-1, x.shape[1], self.heads, count).transpose(1, 2) for x in projected)
        weights = (q @ k.transpose(2, 3) / math.sqrt(count)).softmax(3)
        output: Tensor = self.out_proj((weights @ v).transpose(1, 2).reshape(-1, queries.shape[1], width))
        return output


class Cell(nn.Module):
    """One step over one layer."""

    def __init__(self, sizes: Sizes) -> None:
        """Make random weights."""
        super().__init__()
        width = sizes.width
        self.tokens = nn.Parameter(0.2 * torch.randn(1, sizes.tokens, width))
        self.register_buffer("positions", positions(sizes.tokens, width), persistent=False)
        self.own = Attention(width, sizes.heads)
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, sizes.hidden), nn.GELU(), nn.Linear(sizes.hidden, width))
        for side in ("image", "text"):
            self.add_module(f"{side}_attention", Attention(width, sizes.heads, bias=False))
            self.add_module(f"{side}_norm", nn.LayerNorm(width))
            self.add_module(f"{side}_in", nn.Linear(width, width))
            self.add_module(f"{side}_keep", nn.Linear(width, width))
        self.gate_prior, self.keep_prior = sizes.gate_prior, sizes.keep_prior
        self.squash = nn.Tanh() if sizes.tanh else nn.Identity()

    def side(self, name: str, state: Tensor, layer: Tensor, there: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what comes in of a side, and what it says of what stays."""
        layer = self.get_submodule(f"{name}_norm")(layer)
        incoming = self.get_submodule(f"{name}_attention")(state, layer)
        gate = torch.sigmoid(self.get_submodule(f"{name}_in")(incoming) + self.gate_prior)
        keep = self.get_submodule(f"{name}_keep")(incoming)
        if there is not None:
            gate, keep = gate * there[:, None, None], keep * there[:, None, None]
        return self.squash(incoming) * gate, keep

    def forward(self, state: Tensor, layers: dict[str, Tensor], there: dict[str, Tensor] | None = None) -> Tensor:
        """Return the next state.

        Args:
            state: (B, K, W).
            layers: (B, T, W) by side, of those sides that items of the batch have.
            there: (B,) by side, 1 for items that have it, else 0; none: all have all that is given.
        """
        state = state + self.positions
        normed = self.norm(state)
        sides = [self.side(name, normed, x, None if there is None else there[name]) for name, x in layers.items()]
        keep = torch.sigmoid(torch.stack([stays for _, stays in sides]).sum(0) + self.keep_prior)
        update = self.squash(state + self.own(normed, normed)) * keep + torch.stack([x for x, _ in sides]).sum(0)
        output: Tensor = update + self.mlp(self.mlp_norm(update))
        return output


class Recurrent(nn.Module):
    """Pooled layers of both towers, one after the other in one vector for each side, to a vector (B, D)."""

    def __init__(self, image: Sequence[int], text: Sequence[int], sizes: Sizes, embedding: int, late: int = 1) -> None:
        """Take the widths of the layers of both sides, as many of each, and how many vectors come out.

        Raises:
            UserError: more of one than of the other, heads that don't divide the width, or vectors that are no tokens.
        """
        super().__init__()
        if len(image) != len(text) or sizes.width % (2 * sizes.heads):
            raise UserError(
                f"model_cfg: {len(image)} layers of the image tower and {len(text)} of the text tower, cell "
                f"{sizes}: expected as many layers of each, and a width that twice its heads divide"
            )
        if late not in (1, sizes.tokens):
            raise UserError(
                f"late: {late} vectors of an item, and the cell has {sizes.tokens} tokens: expected as many, or 1"
            )
        self.late = late
        self.widths = {"image": list(image), "text": list(text)}
        self.image = nn.ModuleList([nn.Linear(width, sizes.width) for width in image])
        self.text = nn.ModuleList([nn.Linear(width, sizes.width) for width in text])
        self.cell = Cell(sizes)
        self.project = nn.Linear(sizes.width, embedding, bias=False)

    def adapted(self, side: str, features: Tensor) -> list[Tensor]:
        """Return the layers (B, 1, W) of a side from all of them (B, F)."""
        adapters = self.get_submodule(side)
        parts = features.split(self.widths[side], 1)
        return [adapter(part)[:, None] for adapter, part in zip(adapters, parts, strict=True)]  # type: ignore[call-overload]

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return (B, D), or (B, K D) for late interaction, of items that have one side or both."""
        layers = {side: self.adapted(side, x) for side, x in features.items()}
        first = next(iter(layers.values()))
        state = self.cell.tokens.expand(first[0].shape[0], -1, -1)
        for number in range(len(first)):
            state = self.cell(state, {side: own[number] for side, own in layers.items()})
        if self.late > 1:
            return normalize(self.project(state), dim=2).flatten(1) / math.sqrt(self.late)
        vectors: Tensor = self.project(state.mean(1))
        return vectors


class RecurrentModel(nn.Module):
    """Both towers and the cell: a timm image trunk and a transformers text encoder, whose layers are pooled.

    config: vision {timm_model_name, ...its arguments}, text (a BERT's config), layers {image: widths, text: widths},
    cell (Sizes), embed_dim.
    """

    def __init__(self, config: dict[str, Any], late: int = 1) -> None:
        """Make the model with random weights.

        Raises:
            UserError: no such trunk, a config that is none of a BERT, or layers that don't match.
        """
        super().__init__()
        vision, text = dict(config["vision"]), dict(config["text"])
        try:
            self.trunk = timm.create_model(vision.pop("timm_model_name"), num_classes=0, **vision)
            self.bert = AutoModel.from_config(
                AutoConfig.for_model(text.pop("model_type"), **text), add_pooling_layer=False
            )
            embedding = int(config["embed_dim"])
        except (RuntimeError, TypeError, KeyError, ValueError) as error:
            raise UserError(f"model_cfg makes no recurrent model: {error}") from error
        self.pad = 0
        layers = config.get("layers", {})
        self.head = Recurrent(layers.get("image", []), layers.get("text", []), sizes_of(config), embedding, late)

    def pooled_maps(self, pixels: Tensor) -> list[Tensor]:
        """Return the mean (B, F) of every stage of the trunk, and of its last features."""
        last, stages = self.trunk.forward_intermediates(pixels)
        last = last.mean((2, 3)) if last.ndim == 4 else last[:, 1:].mean(1)
        return [*(stage.mean((2, 3)) for stage in stages), last]

    def image_layers(self, pixels: Tensor) -> Tensor:
        """Return (B, F) of all layers."""
        return torch.cat(self.pooled_maps(pixels), 1)

    def text_layers(self, ids: Tensor) -> Tensor:
        """Return (B, G): the mean over the tokens of every layer."""
        mask = (ids != self.pad).long()
        states = self.bert(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[1:]
        weight = mask[:, :, None].to(states[0].dtype)
        return torch.cat([(x * weight).sum(1) / weight.sum(1) for x in states], 1)

    def encode_triplet(self, pixels: Tensor, ids: Tensor, fused: bool = True) -> dict[str, Tensor]:
        """Return unit vectors (B, D) by modality."""
        both = {"image": self.image_layers(pixels), "text": self.text_layers(ids)}
        vectors = {side: normalize(self.head({side: x}), dim=1) for side, x in both.items()}
        return vectors | {"image_text": normalize(self.head(both), dim=1)} if fused else vectors
