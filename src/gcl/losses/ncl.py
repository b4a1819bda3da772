"""Normalised contrastive learning: cross-entropy on logits that Sinkhorn's biases balance (arXiv 2212.11790).

In a batch some texts are near all images, and take probability from the others. With the biases u and v for which
exp(s_jk / t + u_j + v_k) has rows and columns that sum to 1, every image and every text is found as often as any other:

    L = -1 / 2N sum_j [ log softmax_k(s_jk / t + v_k) at k = j  +  log softmax_j(s_jk / t + u_j) at j = k ]

The biases are constants of a step. What they are at retrieval is the calibration `sinkhorn`.
"""

import torch
from torch import Tensor

ROUNDS = 10  # of rows and columns in turn


def sinkhorn_biases(logits: Tensor, rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """Return u (N,) and v (N,) for which exp(logits + u + v) has sums of 1, columns exactly and rows nearly.

    Args:
        logits: (N, N); minus infinity for a pair that counts as none.
        rounds: after few the sums change little.

    Source: Sinkhorn and Knopp 1967.
    """
    columns = torch.zeros_like(logits[0])
    for _ in range(rounds):
        rows = -(logits + columns).logsumexp(1)
        columns = -(logits + rows[:, None]).logsumexp(0)
    return rows, columns


def ncl_loss(
    image: Tensor, text: Tensor, temperature: float | Tensor, masked: Tensor | None, rows: slice | None = None
) -> Tensor:
    """Compute the loss, in memory of N x N numbers.

    Args:
        image: (N, D) unit vectors, row j of the same pair as row j of `text`.
        text: (N, D) unit vectors.
        temperature: t, above 0.
        masked: (2, P) pairs of samples that are no negatives of each other, see gcl_loss.
        rows: R samples; the loss is the part that is theirs, as gcl_loss has it.

    Returns:
        A number: the mean over samples and both directions.
    """
    logits = image @ text.T / temperature
    if masked is not None and masked.numel():
        first, second = torch.cat([masked, masked.flip(0)], 1)
        outside = torch.zeros_like(logits, dtype=torch.bool)
        outside[first, second] = True
        logits = logits.masked_fill(outside, -torch.inf)
    u, v = sinkhorn_biases(logits.detach())
    across, down = (logits + v).log_softmax(1).diagonal(), (logits + u[:, None]).log_softmax(0).diagonal()
    some = slice(None) if rows is None else rows
    return -(across[some] + down[some]).sum() / (2 * len(image))
