"""The family of losses for items of several vectors, compared by late interaction.

The cosine e_a . e_b of gcl.losses.gcl becomes the mean over the K vectors of the one item of the highest cosine with a
vector of the other's: S(a, b) = 1 / K sum_i max_j a_i . b_j, which is not symmetric. ReT (arXiv 2503.01980) sums where
this takes the mean, and has no temperature: its loss is this with t = 1 / K, target_only and both directions.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gcl.common.arrays import MODALITIES
from gcl.common.errors import UserError
from gcl.losses.denominators import RULES


def maxsim(one: Tensor, other: Tensor, late: int) -> Tensor:
    """Return (N, M) of items (N, K D) and (M, K D) whose K vectors have length 1 / sqrt(K)."""
    apart = one.unflatten(1, (late, -1)), other.unflatten(1, (late, -1))
    scores: Tensor = torch.einsum("nkd,mld->nkml", *apart).amax(3).sum(1)
    return scores


def maxsim_loss(
    vectors: Tensor,
    directions: Mapping[str, float],
    denominator: str,
    temperature: float | Tensor,
    late: int,
    masked: Tensor | None = None,
    rows: slice | None = None,
) -> Tensor:
    """Compute the loss of gcl.losses.gcl with maxsim in place of the cosine.

    Args:
        vectors: (V, N, K D) of images, texts and, where a direction or the denominator has it, both together.
        directions: as for gcl_loss, and so are denominator, temperature, masked and rows.
        denominator: a rule.
        temperature: t, above 0.
        late: K.
        masked: (2, P) pairs of samples that are no negatives of each other.
        rows: the samples that are added up.

    Returns:
        A scalar.

    Raises:
        UserError: an unknown denominator.
    """
    if denominator not in RULES:
        raise UserError(f"unknown denominator '{denominator}' (known: {', '.join(RULES)})")
    rule, n = RULES[denominator], vectors.shape[1]
    start, stop, _ = (rows or slice(None)).indices(n)
    own = torch.arange(start, stop, device=vectors.device)
    hidden = torch.eye(n, dtype=torch.bool, device=vectors.device)
    if masked is not None:
        hidden[masked[0], masked[1]] = hidden[masked[1], masked[0]] = True
    known: dict[tuple[int, int], Tensor] = {}

    def logits(a: int, m: int) -> Tensor:
        """Return (R, N)."""
        if (a, m) not in known:
            known[a, m] = maxsim(vectors[a, start:stop], vectors[m], late) / temperature
        return known[a, m]

    total = vectors.new_zeros(())
    for direction, weight in directions.items():
        a, b = (MODALITIES.index(m) for m in direction.split(">"))
        others = [logits(a, m).masked_fill(hidden[start:stop], -torch.inf) for m in rule.others(a, b)]
        of_own = [logits(a, m).gather(1, own[:, None]) for m in rule.own(a, b)]
        positives = logits(a, b).gather(1, own[:, None])[:, 0]
        total = total + weight * (torch.cat(others + of_own, 1).logsumexp(1) - positives).sum()
    return total / (n * sum(directions.values()))
