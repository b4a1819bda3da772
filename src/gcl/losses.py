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
from typing import Any, NamedTuple

import torch
from torch import Tensor

MODALITIES = ("image", "text", "image_text")
FLOOR = -1e30  # a logit that is hidden
TOGETHER = 1024  # samples up to which the logits of all query modalities are held at once
SMALLEST = -60.0  # exp() of it is 9e-27 of the largest term, below the rounding of a sum of doubles


def duplicates(image_ids: Tensor, text_ids: Tensor, rows: slice | None = None) -> Tensor:
    """Return (R, N) bool: samples j != k that share an image or a text, so that k is no negative of j."""
    start, stop, _ = (rows or slice(None)).indices(len(image_ids))
    same = (image_ids[start:stop, None] == image_ids) | (text_ids[start:stop, None] == text_ids)
    same.diagonal(start).fill_(False)
    return same


def gcl_loss(
    embeddings: Mapping[str, Tensor] | Tensor,
    directions: Mapping[str, float],
    denominator: str,
    temperature: float | Tensor,
    masked: Tensor | None = None,
    rows: slice | None = None,
) -> Tensor:
    """Compute the loss of the module's docstring, exactly, with its gradient in closed form.

    Args:
        embeddings: (N, D) unit vectors by modality: image, text, image_text; or the three stacked, (3, N, D).
        directions: "a>b" -> weight, for instance {"image>text": 1, "text>image": 1}.
        denominator: a rule of the table above.
        temperature: t, above 0; a tensor gets its gradient too.
        masked: (N, N) bool, samples that are no negatives of each other; its diagonal is ignored.
        rows: add up these samples j only, with the same factor; parts over all samples add up to the loss.
            `masked` then has these rows only.

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
    stacked = embeddings if isinstance(embeddings, Tensor) else torch.stack([embeddings[m] for m in MODALITIES])
    if not isinstance(temperature, Tensor):
        temperature = torch.tensor(temperature, dtype=torch.float64)
    loss: Tensor = _ClosedForm.apply(stacked, temperature, by_query, denominator, masked, rows or slice(None))
    return loss


def separation_loss(
    image: Tensor, text: Tensor, distance: Tensor, temperature: float | Tensor, rows: slice | None = None
) -> Tensor:
    """Push apart items of one modality in proportion to how far their captions are (AlignCLIP).

    The logits of images are (I I^T) * distance with i . t on the diagonal, where the targets are; those of
    texts likewise. Returns the mean of both cross-entropies.

    Args:
        image: (N, D) unit vectors.
        text: (N, D) unit vectors.
        distance: (R, N), 1 - cosine of a frozen sentence encoder's features of the captions, 0 on the diagonal.
        temperature: above 0.
        rows: as for gcl_loss; R is their number.

    Source: AlignCLIP, arXiv 2406.17639, with its default targets.
    """
    start, stop, _ = (rows or slice(None)).indices(len(image))
    own = torch.arange(start, stop, device=image.device)
    total = image.new_zeros(())
    for one, other in ((image, text), (text, image)):
        logits = one[start:stop] @ one.T * distance  # (R, N)
        paired = (one[start:stop] * other[start:stop]).sum(1)
        logits = logits.scatter(1, own[:, None], paired[:, None]) / temperature
        total = total + (logits.logsumexp(1) - paired / temperature).sum() / (2 * len(image))
    return total


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
        temperature: Tensor,
        by_query: dict[int, dict[int, float]],
        rule: str,
        masked: Tensor | None,
        rows: slice,
    ) -> Tensor:
        n = stacked.shape[1]
        start, stop, _ = rows.indices(n)
        hidden = torch.zeros(stop - start, n, dtype=torch.bool, device=stacked.device)
        hidden.diagonal(start).fill_(True)
        if masked is not None:
            hidden |= masked
        hidden_at = hidden.nonzero(as_tuple=True)  # few: rows and samples that are no negatives
        scale = 1 / (n * sum(w for targets in by_query.values() for w in targets.values()))
        groups: dict[tuple[int, ...], dict[int, dict[int, float]]] = {}  # columns -> a -> b -> weight
        for a, targets in by_query.items():
            for b, weight in targets.items():
                groups.setdefault(other_columns(rule, a, b), {}).setdefault(a, {})[b] = weight
        total = stacked.new_zeros(())
        gradient = torch.zeros_like(stacked)
        for columns, group in groups.items():
            # All query modalities at once are quicker, one after the other take a third of the memory.
            parts = [group] if n <= TOGETHER else [{a: targets} for a, targets in group.items()]
            for part in parts:
                where = Place(tuple(sorted(part)), slice(start, stop), columns)
                total += _rows(stacked, where, part, rule, temperature.item(), hidden_at, scale, gradient)
        ctx.save_for_backward(gradient, stacked, temperature)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gradient, stacked, temperature = ctx.saved_tensors
        by_temperature = None
        if ctx.needs_input_grad[1]:
            # Every logit e . c / t has its share of the gradient in its row and in its column: e . gradient
            # counts it twice.
            by_temperature = (-0.5 * upstream * (stacked * gradient).sum() / temperature).to(temperature.dtype)
        return upstream * gradient, by_temperature, None, None, None, None


class Place(NamedTuple):
    """A block of logits: the rows (a, j) and the columns (m, k)."""

    queries: tuple[int, ...]  # modalities a, A of them
    samples: slice  # j, R of them
    columns: tuple[int, ...]  # modalities m, M of them, with all samples


def _rows(
    stacked: Tensor,
    place: Place,
    targets: dict[int, dict[int, float]],
    rule: str,
    temperature: float,
    hidden_at: tuple[Tensor, ...],
    scale: float,
    gradient: Tensor,
) -> Tensor:
    """Add the gradient of the directions a > b of one block; return their part of the loss."""
    mine = stacked[:, place.samples]  # (3, R, D): the own sample in all modalities
    rows = mine[list(place.queries)]  # (A, R, D)
    others = stacked if len(place.columns) == len(stacked) else stacked[list(place.columns)]  # (M, N, D)
    logits = (rows.flatten(0, 1) @ others.flatten(0, 1).T).div_(temperature)
    logits = logits.view(*rows.shape[:2], *others.shape[:2])  # (A, R, M, N)
    own = (rows[:, :, None] * mine.transpose(0, 1)).sum(3) / temperature  # (A, R, 3): columns of the own sample
    j, k = hidden_at
    logits[:, j, :, k] = FLOOR
    top = logits.amax((2, 3))  # (A, R)
    # Far below the largest logit nothing is added; the floor spares exp() its slow path for tiny results.
    logits.sub_(top[..., None, None]).clamp_(min=SMALLEST).exp_()
    logits[:, j, :, k] = 0
    negatives = logits.sum((2, 3)).clamp_(min=torch.finfo(logits.dtype).tiny)
    log_negatives = negatives.log() + top  # (A, R)
    share = torch.zeros_like(negatives)  # of the negatives in Z, weighted over directions
    own_gradient = torch.zeros_like(own)
    total = stacked.new_zeros(())
    for i, a in enumerate(place.queries):
        for b, weight in targets[a].items():
            kept = list(OWN_COLUMNS[rule](a, b))
            log_z = torch.logaddexp(log_negatives[i], own[i, :, kept].logsumexp(1))
            total += weight * (log_z - own[i, :, b]).sum()
            share[i] += weight * (log_negatives[i] - log_z).exp()
            own_gradient[i, :, kept] += weight * (own[i, :, kept] - log_z[:, None]).exp()
            own_gradient[i, :, b] -= weight
    factor = scale / temperature
    logits.mul_((share / negatives * factor)[..., None, None])  # now dL/dlogit / t
    own_gradient *= factor
    _spread(stacked, place, logits, own_gradient, gradient)
    return total * scale


def _spread(stacked: Tensor, place: Place, by_logit: Tensor, by_own: Tensor, gradient: Tensor) -> None:
    """Add to the gradient at every vector what a block's logits (A, R, M, N) and own columns (A, R, 3) give it."""
    mine = stacked[:, place.samples]
    rows = mine[list(place.queries)]  # (A, R, D)
    flat = by_logit.flatten(2).flatten(0, 1)  # (A R, M N)
    if place.queries == place.columns == (0, 1, 2) and flat.shape[0] == flat.shape[1]:
        # All against all: each vector is a row and a column of the same, symmetric products.
        gradient += ((flat + flat.T) @ stacked.flatten(0, 1)).view_as(stacked)
    else:
        others = stacked if len(place.columns) == len(stacked) else stacked[list(place.columns)]
        at_rows = (flat @ others.flatten(0, 1)).view_as(rows)
        at_columns = (flat.T @ rows.flatten(0, 1)).view_as(others)
        for a, part in zip(place.queries, at_rows, strict=True):
            gradient[a, place.samples] += part
        for m, part in zip(place.columns, at_columns, strict=True):
            gradient[m] += part
    weights = by_own.permute(0, 2, 1)[..., None]  # (A, 3, R, 1)
    for i, a in enumerate(place.queries):
        gradient[a, place.samples] += (weights[i] * mine).sum(0)
        gradient[:, place.samples] += weights[i] * rows[i]
