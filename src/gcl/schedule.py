"""How far each weight moves: the learning rate over time, and which weights decay."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gcl.config import Recipe

if TYPE_CHECKING:
    from torch import nn


def learning_rate(step: int, total: int, recipe: Recipe) -> float:
    """Linear warm-up over the share `warmup` of `total` steps, then a cosine to zero."""
    warmup = math.ceil(recipe.warmup * total)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def weight_groups(parameters: "Iterable[nn.Parameter]", weight_decay: float) -> list[dict[str, Any]]:
    """Split weights for the optimizer: matrices decay; norms, biases and the scale don't."""
    weights = [p for p in parameters if p.requires_grad]
    return [
        {"params": [p for p in weights if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
    ]
