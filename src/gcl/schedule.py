"""The learning rate over time."""

import math

from gcl.config import Recipe


def learning_rate(step: int, total: int, recipe: Recipe) -> float:
    """Linear warm-up over the share `warmup` of `total` steps, then a cosine to zero."""
    warmup = math.ceil(recipe.warmup * total)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
