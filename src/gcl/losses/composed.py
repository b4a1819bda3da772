"""Loss of composed queries: an image and a text that says what to change, against the images that are meant.

A batch of N such queries with N right candidates and M others, all of which are negatives of the rest:

    L = -1 / N sum_j log softmax_k(q_j . c_k / t) at k = j
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Return (N, D) between two (N, D): the direction on the great circle, the length on the line between both lengths.

    Args:
        one: what share 0 gives.
        other: what share 1 gives.
        share: how far to go.

    Source: Shoemake 1985; of image vectors in CoLLM, arXiv 2503.19910.
    """
    from_length, to_length = one.norm(dim=1, keepdim=True), other.norm(dim=1, keepdim=True)
    a, b = normalize(one, dim=1), normalize(other, dim=1)
    # The sine of the angle is the length of what b has across a, exact also where both are nearly the same.
    across = b - (a * b).sum(1, keepdim=True) * a
    sine = across.norm(dim=1, keepdim=True)
    angle = torch.atan2(sine, (a * b).sum(1, keepdim=True))
    direction = torch.cos(share * angle) * a + torch.sin(share * angle) * across / sine.clamp_min(1e-12)
    return ((1 - share) * from_length + share * to_length) * direction


def composed_loss(queries: Tensor, candidates: Tensor, temperature: float, masked: Tensor | None = None) -> Tensor:
    """Compute the loss, in memory of N x (N + M) numbers.

    Args:
        queries: (N, D) unit vectors.
        candidates: (N + M, D) unit vectors; row j < N is what query j means.
        temperature: t, above 0.
        masked: (N, N + M) bool, what is no negative of a query though it is not its row j: the same image, for one.
    """
    logits = queries @ candidates.T / temperature
    if masked is not None:
        own = torch.arange(len(queries), device=queries.device)
        outside = masked.index_put((own, own), torch.zeros(len(queries), dtype=torch.bool, device=queries.device))
        logits = logits.masked_fill(outside, -torch.inf)
    return (logits.logsumexp(1) - logits.diagonal()).mean()
