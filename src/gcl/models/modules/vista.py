"""The torch module of VISTA."""

import math
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel

from gcl.common.errors import UserError


def pooling(height: int, width: int, grid: int) -> Tensor:
    """Return (height * width, grid * grid) weights of adaptive average pooling: as a product it exports to one node."""
    sides = []
    for size in (height, width):
        cells = torch.arange(size)[:, None]
        first = torch.arange(grid) * size // grid
        last = -(torch.arange(1, grid + 1) * -size // grid)
        inside = (cells >= first) & (cells < last)
        sides.append(inside / inside.sum(0))
    return torch.kron(*sides)


class Vista(nn.Module):
    """encode_image, encode_text, encode_fused and encode_triplet give unit vectors (B, D).

    config: vision {timm_model_name, ...its arguments, grid (of image tokens on a side; none: all of a ViT's)}, text (a
    BERT's or XLM-R's config), pool (cls or mean), embed_dim (of a projection head; none for the public models).
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Make the model with random weights.

        Raises:
            UserError: no such trunk, or a config that is none of a BERT.
        """
        super().__init__()
        vision = dict(config["vision"])
        name, self.grid = vision.pop("timm_model_name"), vision.pop("grid", None)
        try:
            self.vision = timm.create_model(name, num_classes=0, **vision)
            text = dict(config["text"])
            self.text = AutoModel.from_config(
                AutoConfig.for_model(text.pop("model_type"), **text), add_pooling_layer=False
            )
        except (RuntimeError, TypeError, KeyError, ValueError) as error:
            raise UserError(f"model_cfg makes no VISTA: {error}") from error
        if isinstance(getattr(self.vision, "norm", None), nn.LayerNorm):
            self.vision.norm = nn.Identity()  # tokens are taken before it
        width = self.text.config.hidden_size
        self.visual_proj = nn.Linear(self.vision.num_features, width)
        self.is_mean = config.get("pool", "cls") == "mean"
        self.reads_in_turns = bool(config.get("in_turns", False))
        # XLM-R's own text positions start at 2; in the fused path VISTA counts from 0 for both.
        self.proj: nn.Module | None = None
        if "embed_dim" in config:
            hidden = (width + config["embed_dim"]) // 2
            self.proj = nn.Sequential(
                nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, config["embed_dim"], bias=False)
            )
        self.pad = 0
        self.register_buffer("empty", torch.zeros(2, dtype=torch.long), persistent=False)

    def set_empty(self, ids: list[int], pad: int) -> None:
        """Take the token ids of the empty text, [CLS] [SEP], and of padding."""
        self.empty.copy_(torch.tensor(ids))
        self.pad = pad

    @property
    def positions(self) -> int:
        """Return how many tokens an item may have in all."""
        count: int = self.text.config.max_position_embeddings
        return count

    def set_grad_checkpointing(self) -> None:
        """Trade compute for memory in both towers."""
        self.vision.set_grad_checkpointing()
        self.text.gradient_checkpointing_enable()

    def fused_context(self, context: int) -> int:
        """Return how many text tokens fit beside the image tokens."""
        image = self.grid**2 if self.grid else self.vision.patch_embed.num_patches
        return min(context, self.positions - image)

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """Return (B, P, W) projected, un-normalised tokens of (B, 3, S, S) pixels."""
        features = self.vision.forward_features(pixels)
        if features.ndim == 4:  # a convolutional trunk's map (B, F, h, w)
            height, width, cells = features.shape[2], features.shape[3], features.flatten(2)
        else:
            cells = features[:, 1:].transpose(1, 2)  # without the trunk's own class token
            height = width = math.isqrt(cells.shape[2])
        if self.grid:
            cells = cells @ pooling(height, width, self.grid).to(cells)
        tokens = cells.transpose(1, 2)
        projected: Tensor = self.visual_proj(tokens)
        return projected

    def set_image_tokens(self, count: int) -> None:
        """Read an image as so many tokens, a square number: the trunk's are pooled to as many cells.

        Raises:
            UserError: it is no square.
        """
        side = math.isqrt(count)
        if side**2 != count:
            raise UserError(f"image_tokens: {count}: expected a square number, such as 1, 9 or 49")
        self.grid = side

    # Sizes come from .shape: len() is a plain number, which an export would fix.
    def empty_ids(self, n: int) -> Tensor:
        """Return (n, 2), the empty text."""
        return self.empty.expand(n, 2)

    def fuse(self, tokens: Tensor, ids: Tensor, head: bool = True) -> Tensor:
        """Encode image tokens (B, P, W) after the first of ids (B, L); the empty text gives the image alone."""
        words = self.text.embeddings.word_embeddings(ids)
        # BERT adds the first token type to every input; VISTA's image tokens have none.
        image = tokens - self.text.embeddings.token_type_embeddings.weight[0]
        joined = torch.cat([words[:, :1], image.to(words.dtype), words[:, 1:]], 1)  # (B, 1 + P + L - 1, W)
        mask = torch.cat([torch.ones_like(tokens[..., 0], dtype=torch.long), (ids != self.pad).long()], 1)
        positions = torch.arange(joined.shape[1], device=ids.device)[None]
        encoded = self.text(inputs_embeds=joined, attention_mask=mask, position_ids=positions)
        return self.pooled(encoded.last_hidden_state, mask, head)

    def fuse_in_turns(self, tokens: Tensor, ids: Tensor, order: Tensor, head: bool = True) -> Tensor:
        """Encode items whose texts and images stand in turns; one image before its text gives what `fuse` does.

        Args:
            tokens: (B, P, W) of all images of an item, one after the other.
            ids: (B, L) of all its texts, with the first and last of a text around them.
            order: (B, S) what is read: places in (tokens, ids), below 0 for padding.
            head: as for `pooled`.
        """
        image = tokens - self.text.embeddings.token_type_embeddings.weight[0]  # as in `fuse`
        words = self.text.embeddings.word_embeddings(ids)
        joined = torch.cat([image.to(words.dtype), words], 1)
        read = joined.gather(1, order.clamp(min=0)[:, :, None].expand(-1, -1, joined.shape[2]))
        mask = (order >= 0).long()
        positions = torch.arange(order.shape[1], device=ids.device)[None]
        encoded = self.text(inputs_embeds=read, attention_mask=mask, position_ids=positions)
        return self.pooled(encoded.last_hidden_state, mask, head)

    def encode_text(self, ids: Tensor, head: bool = True) -> Tensor:
        """Return (B, D) of token ids (B, L)."""
        mask = (ids != self.pad).long()
        return self.pooled(self.text(input_ids=ids, attention_mask=mask).last_hidden_state, mask, head)

    def pooled(self, states: Tensor, mask: Tensor, head: bool) -> Tensor:
        """Return unit vectors of (B, L, W) states; without head the pooled states themselves if one exists."""
        if self.is_mean:
            weight = mask[..., None].to(states.dtype)
            vector = (states * weight).sum(1) / weight.sum(1)
        else:
            vector = states[:, 0]
        if self.proj is None:
            return normalize(vector, dim=1)
        return normalize(self.proj(vector), dim=1) if head else vector

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return (B, D) of images alone."""
        return self.fuse(self.image_tokens(pixels), self.empty_ids(pixels.shape[0]))

    def encode_fused(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """Return (B, D) of images with their texts."""
        return self.fuse(self.image_tokens(pixels), ids)

    def encode_triplet(self, pixels: Tensor, ids: Tensor, fused: bool = True) -> dict[str, Tensor]:
        """Return (B, D) by modality; the image tower runs once for both that need it."""
        tokens = self.image_tokens(pixels)
        apart = {"image": self.fuse(tokens, self.empty_ids(tokens.shape[0])), "text": self.encode_text(ids)}
        return apart | {"image_text": self.fuse(tokens, self.shortened(ids))} if fused else apart

    def shortened(self, ids: Tensor) -> Tensor:
        """Return (B, L') ids that fit beside the image tokens."""
        limit = self.fused_context(ids.shape[1])
        if limit == ids.shape[1]:
            return ids
        # Cut texts end as whole ones do.
        last = torch.where(ids[:, limit] == self.pad, ids[:, limit - 1], self.empty[1])
        return torch.cat([ids[:, : limit - 1], last[:, None]], 1)
