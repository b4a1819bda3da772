"""What a step of training is, whatever is trained: learning rate, AdamW, and the line of the curve."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw  # torch.optim.AdamW's arithmetic; the class itself imports torch.compile, a second

from gcl.common.errors import UserError
from gcl.config.recipes import Recipe

BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch's defaults

Curve = list[dict[str, float]]
Moments = tuple[Tensor, Tensor, Tensor]  # of one weight: gradient and its square, smoothed, and the number of steps


class Steps:
    """AdamW on a schedule, with the curve of what happened."""

    def __init__(self, parameters: Iterable[nn.Parameter], recipe: Recipe, per_epoch: int, name: str) -> None:
        """Take the weights; `per_epoch` steps make an epoch."""
        self.recipe, self.per_epoch, self.name = recipe, per_epoch, name
        self.groups = weight_groups(parameters, recipe.weight_decay)
        self.moments: dict[nn.Parameter, Moments] = {
            w: (torch.zeros_like(w), torch.zeros_like(w), torch.zeros((), device=w.device))
            for group in self.groups
            for w in group["params"]
        }
        self.total = min(recipe.epochs * per_epoch, recipe.max_steps or 10**9)
        self.rate = 0.0
        self.curve: Curve = []

    def begin(self) -> None:
        """Set the learning rate of the next step and forget the last gradient."""
        self.rate = learning_rate(len(self.curve), self.total, self.recipe)
        for weight in self.moments:
            weight.grad = None

    def end(self, loss: float, duplicates: int, **more: float) -> dict[str, float]:
        """Move the weights, add a line to the curve and return it.

        Raises:
            UserError: the loss is no longer finite.
        """
        step = len(self.curve)
        if not np.isfinite(loss):
            raise UserError(f"{self.name}: loss is {loss} at step {step}; lower learning_rate or raise the temperature")
        self.move()
        line = {"step": step, "epoch": step // self.per_epoch, "loss": loss, "learning_rate": self.rate}
        self.curve.append(line | {"duplicates": duplicates} | more)
        return self.curve[-1]

    def move(self) -> None:
        """Do AdamW's step on every weight that has a gradient."""
        for group in self.groups:
            rows = [(w, w.grad, *self.moments[w]) for w in group["params"] if w.grad is not None]
            if not rows:
                continue
            weights, gradients, means, squares, steps = map(list, zip(*rows, strict=True))
            with torch.no_grad():
                adamw(
                    *(weights, gradients, means, squares, [], steps),
                    lr=self.rate,
                    weight_decay=group["weight_decay"],
                    beta1=BETAS[0],
                    beta2=BETAS[1],
                    eps=EPSILON,
                    amsgrad=False,
                    maximize=False,
                    fused=True,
                )

    def restore(self, moments: list[Moments], curve: Curve) -> None:
        """Go on after the steps of a curve, with the moments of all weights in their order."""
        for own, saved in zip(self.moments.values(), moments, strict=True):
            for tensor, value in zip(own, saved, strict=True):
                tensor.copy_(value)
        self.curve.extend(curve)


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
