"""The network that scores a pair's features, trained so that relevant candidates lead their query's list.

The loss of a list is minus the log of the softmax's share of its relevant candidates (ListNet's top-one likelihood for
one relevant candidate, Cao et al. 2007).
"""

import numpy as np
import torch
from torch import Tensor, nn

from gcl.common.arrays import Floats
from gcl.common.errors import UserError

HIDDEN, STEPS, RATE, DECAY = 32, 400, 5e-3, 1e-2


def list_loss(scores: Tensor, relevant: Tensor, listed: Tensor) -> Tensor:
    """Return the mean loss of (L, k) scores.

    Args:
        scores: of candidates.
        relevant: (L, k) bool, one of each list at least.
        listed: (L, k) bool, false where a list is shorter.
    """
    everything = scores.masked_fill(~listed, -torch.inf).logsumexp(1)
    return (everything - scores.masked_fill(~relevant, -torch.inf).logsumexp(1)).mean()


def train(features: Floats, relevant: np.ndarray, listed: np.ndarray, seed: int) -> tuple[Floats, Floats, Floats]:
    """Train on lists, all of them at every step.

    Args:
        features: (L, k, F).
        relevant: (L, k) bool.
        listed: (L, k) bool.
        seed: of the first weights.

    Returns:
        Weights (H, F) and bias (H,) of the first layer, which takes features as they are, and weights (1, H).

    Raises:
        UserError: no list has a relevant candidate, or a loss that is no longer finite.
    """
    useful = relevant.any(1)
    if not useful.any():
        raise UserError("no list has a relevant candidate among those that are ranked again: nothing can be learned")
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # the result doesn't depend on how many cores there are
    x, good, shown = (torch.from_numpy(part[useful]) for part in (features, relevant, listed))
    mean, deviation = x[shown].mean(0), x[shown].std(0) + 1e-6
    x = (x - mean) / deviation
    first, second = nn.Linear(x.shape[2], HIDDEN), nn.Linear(HIDDEN, 1, bias=False)
    optimizer = torch.optim.AdamW([*first.parameters(), *second.parameters()], lr=RATE, weight_decay=DECAY)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        loss = list_loss(second(nn.functional.gelu(first(x)))[:, :, 0], good, shown)
        if not torch.isfinite(loss):
            raise UserError(f"the loss of the re-ranker is {loss.item()} at step {step}; are the features finite?")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weight = first.weight.detach().double() / deviation.double()
    bias = first.bias.detach().double() - weight @ mean.double()
    return weight.float().numpy(), bias.float().numpy(), second.weight.detach().numpy()
