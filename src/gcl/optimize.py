"""What a step of training is, whatever is trained: learning rate, AdamW, and the line of the curve."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from gcl.config import Recipe
from gcl.schedule import learning_rate, weight_groups

Curve = list[dict[str, float]]


class Steps:
    """AdamW on a schedule, with the curve of what happened."""

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: Recipe, per_epoch: int, name: str) -> None:
        """Take the weights; `per_epoch` steps make an epoch."""
        self.recipe, self.per_epoch, self.name = recipe, per_epoch, name
        groups = weight_groups(parameters, recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
        self.total = min(recipe.epochs * per_epoch, recipe.max_steps or 10**9)
        self.curve: Curve = []

    def begin(self) -> None:
        """Set the learning rate of the next step and forget the last gradient."""
        rate = learning_rate(len(self.curve), self.total, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()

    def end(self, loss: float, duplicates: int, **more: float) -> dict[str, float]:
        """Move the weights, add a line to the curve and return it.

        Raises:
            ValueError: the loss is no longer finite.
        """
        step = len(self.curve)
        if not np.isfinite(loss):
            raise ValueError(
                f"{self.name}: loss is {loss} at step {step}; lower learning_rate or raise the temperature"
            )
        self.optimizer.step()
        rate = self.optimizer.param_groups[0]["lr"]
        line = {"step": step, "epoch": step // self.per_epoch, "loss": loss, "learning_rate": rate}
        self.curve.append(line | {"duplicates": duplicates} | more)
        return self.curve[-1]
