"""Projection heads on frozen towers: two layers with GELU between, in open_clip's shapes and names.

A head trains on standardised features, which makes one learning rate fit both towers, and is stored
with the standardisation folded into its first layer, so that stock open_clip modules hold it.
"""

import torch
from torch import Tensor, nn

from gcl.common.errors import UserError
from gcl.models.base import Keys


class Dropout(nn.Module):
    """Zero a share of the inputs and scale up the rest; torch.rand is quicker on a CPU than nn.Dropout."""

    def __init__(self, share: float) -> None:
        """Take the share that is zeroed in training."""
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return x itself outside training."""
        if not self.training or not self.share:
            return x
        return x * torch.rand_like(x).ge_(self.share).mul_(1 / (1 - self.share))


class Head(nn.Module):
    """Standardised features (B, F) -> tower output (B, D).

    Without a bias in the first layer (open_clip's text head) features are scaled but not shifted: there is nothing that
    could hold the shift.
    """

    def __init__(self, keys: Keys, features: Tensor, embedding: int, dropout: float) -> None:
        """Take mean and deviation from training features (P, F)."""
        super().__init__()
        self.keys = keys
        width = keys.width(features.shape[1], embedding)
        self.first = nn.Linear(features.shape[1], width, bias=self.keys.bias is not None)
        self.between = nn.Sequential(nn.GELU(), Dropout(dropout))
        self.second = nn.Linear(width, embedding, bias=False)
        deviation = features.std(0)
        self.register_buffer("deviation", deviation + 1e-3 * deviation.mean())
        self.register_buffer("mean", features.mean(0) if self.keys.bias else torch.zeros(features.shape[1]))

    def standardise(self, features: Tensor) -> Tensor:
        """Return what `forward` takes; done once for all training features."""
        return (features - self.mean) / self.deviation

    def forward(self, standard: Tensor) -> Tensor:
        """Return raw outputs (B, D) of standardised features; normalising is fusion's part."""
        output: Tensor = self.second(self.between(self.first(standard)))
        return output

    def folded(self, width: int | None = None) -> dict[str, Tensor]:
        """Return the weights that act on plain features, by open_clip's names; of the outputs the first so many."""
        weight = self.first.weight.detach().double() / self.deviation
        state = {self.keys.first: weight.float(), self.keys.second: self.second.weight[:width].detach().clone()}
        if self.keys.bias is not None:
            state[self.keys.bias] = (self.first.bias.detach().double() - weight @ self.mean.double()).float()
        return state

    def unfold(self, state: dict[str, Tensor]) -> None:
        """Set the weights from what `folded` returned.

        Raises:
            UserError: a tensor is missing or has another shape.
        """
        wanted = {self.keys.first: self.first.weight.shape, self.keys.second: self.second.weight.shape}
        for key, shape in wanted.items():
            if key not in state or state[key].shape != shape:
                stored = tuple(state[key].shape) if key in state else "nothing"
                raise UserError(f"checkpoint of another backbone? {key}: expected {tuple(shape)}, found {stored}")
        weight = state[self.keys.first].double()
        with torch.no_grad():
            self.first.weight.copy_(weight * self.deviation)
            self.second.weight.copy_(state[self.keys.second])
            if self.keys.bias is not None:
                self.first.bias.copy_(state[self.keys.bias].double() + weight @ self.mean.double())


def apply_folded(keys: Keys, state: dict[str, Tensor], features: Tensor) -> Tensor:
    """Run a stored head on plain features (B, F): what ONNX is compared with."""
    bias = state[keys.bias] if keys.bias is not None else None
    hidden = nn.functional.gelu(nn.functional.linear(features, state[keys.first], bias))
    return nn.functional.linear(hidden, state[keys.second])
