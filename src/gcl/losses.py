"""The family of contrastive losses: CL, GCL and its variants are rows of the same function.

With unit vectors e_m^j of sample j in modality m, M = {image, text, image_text}, temperature t and
weights w over ordered pairs of modalities (a, b), the loss is

    L = -1 / (N sum w) * sum_j sum_(a,b) w_ab log [ exp(e_a^j . e_b^j / t) / Z_ab^j ]

and the denominator rule says which columns (m, k) the sum Z_ab^j = sum exp(e_a^j . e_m^k / t) has:

    full                    all                               GCL as printed (arXiv 2509.25638)
    no_self                 all but (a, j)                    GCL without the row's similarity to itself
    no_self_no_copositive   of sample j only (b, j)           nor with its other positive as a negative
    cross_only              those of other modalities than a
    target_only             those of modality b               CL with (image, text) and (text, image): InfoNCE
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

MODALITIES = ("image", "text", "image_text")
FLOOR = -1e30  # a logit that is hidden
SMALLEST = -60.0  # exp() of it is 9e-27 of the largest term, below the rounding of a sum of doubles


def duplicates(image_ids: Tensor, text_ids: Tensor) -> Tensor:
    """Return (N, N) bool: samples j != k that share an image or a text, so that k is no negative of j."""
    same = (image_ids[:, None] == image_ids) | (text_ids[:, None] == text_ids)
    return same.fill_diagonal_(False)


def gcl_loss(
    embeddings: Mapping[str, Tensor],
    directions: Mapping[str, float],
    denominator: str,
    temperature: float,
    masked: Tensor | None = None,
) -> Tensor:
    """Compute the loss of the module's docstring, exactly, with its gradient in closed form.

    Args:
        embeddings: (N, D) unit vectors by modality: image, text, image_text.
        directions: "a>b" -> weight, for instance {"image>text": 1, "text>image": 1}.
        denominator: a rule of the table above.
        temperature: t, above 0.
        masked: (N, N) bool, samples that are no negatives of each other; its diagonal is ignored.

    Returns:
        A scalar. When all positives coincide and all negatives are far, it reaches ln 3 (full), ln 2
        (no_self, cross_only) or 0 (no_self_no_copositive, target_only).

    Raises:
        ValueError: an unknown denominator or modality.

    Source: arXiv 2509.25638; the variants remove terms of its denominator.
    """
    if denominator not in OWN_COLUMNS:
        raise ValueError(f"unknown denominator '{denominator}' (known: {', '.join(OWN_COLUMNS)})")
    by_query: dict[int, dict[int, float]] = {}
    for direction, weight in directions.items():
        a, b = (MODALITIES.index(m) for m in direction.split(">"))
        by_query.setdefault(a, {})[b] = weight
    stacked = torch.stack([embeddings[m] for m in MODALITIES])  # (3, N, D)
    loss: Tensor = _ClosedForm.apply(stacked, by_query, denominator, temperature, masked)
    return loss


# Modalities m whose column (m, j) of the row's own sample is in the denominator of direction a > b.
OWN_COLUMNS: dict[str, Callable[[int, int], tuple[int, ...]]] = {
    "full": lambda a, b: (0, 1, 2),
    "no_self": lambda a, b: tuple(m for m in range(3) if m != a),
    "no_self_no_copositive": lambda a, b: (b,),
    "cross_only": lambda a, b: tuple(m for m in range(3) if m != a),
    "target_only": lambda a, b: (b,),
}


def other_columns(denominator: str, a: int, b: int) -> tuple[int, ...]:
    """Modalities m whose columns (m, k) of other samples k are in the denominator of direction a > b."""
    if denominator == "target_only":
        return (b,)
    return tuple(m for m in range(3) if denominator != "cross_only" or m != a)


class _ClosedForm(torch.autograd.Function):
    """Value and gradient together: with P the softmax over a denominator and Y its positive,

    dL/de_a^j = 1/(N t sum w) sum_ab w_ab sum_c (P - Y)_jc e_c, and each column gets the transpose. One
    exponential per logit serves all directions of a row, since those that share their other-sample
    columns differ only in the columns of their own sample.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        stacked: Tensor,
        by_query: dict[int, dict[int, float]],
        rule: str,
        temperature: float,
        masked: Tensor | None,
    ) -> Tensor:
        n = stacked.shape[1]
        hidden = torch.eye(n, dtype=torch.bool, device=stacked.device)
        if masked is not None:
            hidden = hidden | masked
        hidden_at = hidden.nonzero(as_tuple=True)  # few: rows and samples that are no negatives
        scale = 1 / (n * sum(w for targets in by_query.values() for w in targets.values()))
        total = stacked.new_zeros(())
        gradient = torch.zeros_like(stacked)
        for a, targets in by_query.items():
            groups: dict[tuple[int, ...], dict[int, float]] = {}
            for b, weight in targets.items():
                groups.setdefault(other_columns(rule, a, b), {})[b] = weight
            for columns, group in groups.items():
                total += _rows(stacked, a, columns, group, rule, temperature, hidden_at, scale, gradient)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None, None


def _rows(
    stacked: Tensor,
    a: int,
    columns: tuple[int, ...],
    targets: dict[int, float],
    rule: str,
    temperature: float,
    hidden_at: tuple[Tensor, ...],
    scale: float,
    gradient: Tensor,
) -> Tensor:
    """Add the gradient of directions a > b that share `columns`; return their part of the loss."""
    rows = stacked[a]  # (N, D)
    others = stacked if len(columns) == len(stacked) else stacked[list(columns)]  # (M, N, D)
    logits = (rows @ others.flatten(0, 1).T).div_(temperature).view(len(rows), len(columns), len(rows))  # (N, M, N)
    own = (rows * stacked).sum(2).T / temperature  # (N, 3): all columns of the own sample
    j, k = hidden_at
    logits[j, :, k] = FLOOR
    top = logits.amax((1, 2))  # (N,)
    # Far below the largest logit nothing is added; the floor spares exp() its slow path for tiny results.
    logits.sub_(top[:, None, None]).clamp_(min=SMALLEST).exp_()
    logits[j, :, k] = 0
    negatives = logits.sum((1, 2)).clamp_(min=torch.finfo(logits.dtype).tiny)
    log_negatives = negatives.log() + top  # (N,)
    share = torch.zeros_like(negatives)  # of the negatives in Z, weighted over directions
    own_gradient = torch.zeros_like(own)
    total = stacked.new_zeros(())
    for b, weight in targets.items():
        kept = list(OWN_COLUMNS[rule](a, b))
        log_z = torch.logaddexp(log_negatives, own[:, kept].logsumexp(1))
        total += weight * (log_z - own[:, b]).sum()
        share += weight * (log_negatives - log_z).exp()
        own_gradient[:, kept] += weight * (own[:, kept] - log_z[:, None]).exp()
        own_gradient[:, b] -= weight
    factor = scale / temperature
    logits.mul_((share / negatives * factor)[:, None, None])  # now dL/dlogit / t
    own_gradient *= factor
    flat = logits.flatten(1)  # (N, M N)
    own_gradient = own_gradient.T[..., None]  # (3, N, 1)
    gradient[a] += flat @ others.flatten(0, 1) + (own_gradient * stacked).sum(0)
    gradient += own_gradient * rows
    for column, part in zip(columns, (flat.T @ rows).view_as(others), strict=True):
        gradient[column] += part
    return total * scale
