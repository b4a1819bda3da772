"""The family of contrastive losses: CL, GCL and its variants are rows of the same function.

With unit vectors e_m^j of sample j in modality m, M = {image, text, image_text}, temperature t and
weights w over ordered pairs of modalities (a, b), the loss is

    L = -1 / (N sum w) * sum_j sum_(a,b) w_ab log [ exp(e_a^j . e_b^j / t) / Z_ab^j ]

and the denominator rule says which columns (m, k) the sum Z_ab^j = sum exp(e_a^j . e_m^k / t) has:

    full                    all                               GCL as printed (arXiv 2509.25638)
    no_self                 all but (a, j)                    GCL without the row's similarity to itself
    no_self_no_copositive   of sample j only (b, j)           nor with its other positive as a negative
    no_fused                the same, of images and texts only       GTE's, arXiv 2308.03281, a sum for each direction
    cross_only              those of other modalities than a
    target_only             those of modality b               CL with (image, text) and (text, image): InfoNCE
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gcl.common.arrays import MODALITIES
from gcl.common.errors import UserError
from gcl.losses.denominators import RULES
from gcl.losses.tiled import (
    Blocks,
    Free,
    Grid,
    Hidden,
    Mixed,
    Tile,
    add_gradient,
    add_shifted_gradient,
    constant_shift,
    exponentials,
    log_sums,
    shifted_log_sums,
    sums_are_safe,
    tile_size,
)

OWN = 256  # samples whose vectors are in float64 at a time


def duplicates(image_ids: Tensor, text_ids: Tensor) -> Tensor:
    """Return (2, P) pairs j < k of samples that share an image or a text, so that k is no negative of j."""
    n = len(image_ids)
    pairs = [image_ids.new_empty(0)]
    for ids in (image_ids, text_ids):
        order = ids.argsort(stable=True)
        ordered = ids[order]
        for step in range(1, n):
            first = (ordered[step:] == ordered[:-step]).nonzero()[:, 0]
            if not len(first):
                break
            pairs.append(order[first] * n + order[first + step])
    codes = torch.cat(pairs).unique()
    return torch.stack([codes // max(n, 1), codes % max(n, 1)])


def gcl_loss(
    vectors: Mapping[str, Tensor] | Tensor,
    directions: Mapping[str, float],
    denominator: str,
    temperature: float | Tensor,
    masked: Tensor | None = None,
    rows: slice | None = None,
    mix: Tensor | None = None,
) -> Tensor:
    """Compute the loss of the module's docstring, exactly, with its gradient in closed form.

    Args:
        vectors: (N, D) unit vectors by modality: image, text, image_text; or the three stacked, (3, N, D).
        directions: "a>b" -> weight, for instance {"image>text": 1, "text>image": 1}.
        denominator: a rule of the table above.
        temperature: t, above 0; a tensor gets its gradient too.
        masked: (2, P) pairs of samples that are no negatives of each other, each in one of its orders.
        rows: add up these samples j only, with the same factor; parts over all samples add up to the loss.
        mix: (2, N) float64, where image+text vectors are mix[0] * image + mix[1] * text: then `vectors` are those of
            images and texts, (2, N, D), which takes half the time.

    Returns:
        A scalar. When all positives coincide and all negatives are far, it reaches ln 3 (full), ln 2
        (no_self, cross_only) or 0 (no_self_no_copositive, target_only).

    Raises:
        UserError: an unknown denominator or modality.
        RuntimeError: a second backward pass through the same loss, or a derivative of its gradient.

    Source: arXiv 2509.25638; the variants remove terms of its denominator.

    Example:
        >>> import torch, gcl
        >>> one = torch.eye(2)  # two pairs whose image, text and both are the same unit vector
        >>> vectors = {"image": one, "text": one, "image_text": one}
        >>> round(gcl.gcl_loss(vectors, {"image>text": 1, "text>image": 1}, "target_only", 0.05).item(), 4)
        0.0
    """
    if denominator not in RULES:
        raise UserError(f"unknown denominator '{denominator}' (known: {', '.join(RULES)})")
    weights = {}
    for direction, weight in directions.items():
        a, b = (MODALITIES.index(m) for m in direction.split(">"))
        if weight:
            weights[a, b] = weight
    stacked = vectors if isinstance(vectors, Tensor) else torch.stack([vectors[m] for m in MODALITIES])
    if not isinstance(temperature, Tensor):
        temperature = torch.tensor(temperature, dtype=torch.float64)
    if mix is None:
        mix = stacked.new_zeros(2, 0, dtype=torch.float64)
    start, stop, _ = (rows or slice(None)).indices(stacked.shape[1])
    what = Request(weights, denominator, masked, slice(start, stop))
    loss: Tensor = _ClosedForm.apply(stacked, mix, temperature, what)
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


class Request(NamedTuple):
    """What a call asks for: the directions with their weights, the denominator's rule, and of which samples."""

    weights: dict[tuple[int, int], float]  # (a, b) -> w_ab
    rule: str
    masked: Tensor | None
    rows: slice

    def pairs(self) -> set[tuple[int, int]]:
        """Return the (a, m) of which some denominator has other samples' columns."""
        return {(a, m) for a, b in self.weights for m in RULES[self.rule].others(a, b)}


class _ClosedForm(torch.autograd.Function):
    """Value and gradient together, see gcl.losses.tiled for the steps."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, mix: Tensor, temperature: Tensor, request: Request) -> Tensor:  # type: ignore[override]
        n, t, pairs = vectors.shape[1], temperature.item(), request.pairs()
        is_mixed = len(vectors) == 2 and any(2 in pair for pair in (*pairs, *request.weights))
        grid = Grid(n, request.rows, tile_size(vectors.device, is_mixed))
        unordered = {(min(pair), max(pair)) for pair in pairs}
        source = Mixed(vectors, mix, grid, t) if is_mixed else Free(vectors, unordered, grid, t)
        hidden = Hidden(request.masked, grid, vectors.device)
        shift = constant_shift(n, t, vectors.dtype)
        tiles: Iterable[tuple[Tile, Blocks]] = exponentials(source, hidden, shift)
        if len(grid.parts) == 1 and (is_mixed or len(unordered) == 1):  # the only tile serves both steps
            tiles = list(tiles)
        sums = log_sums(tiles, n, vectors.device, shift)
        is_safe = sums_are_safe(sums, pairs, request.rows, shift)
        if not is_safe:
            sums = shifted_log_sums(source, hidden, n)
        combination = to_triplet(mix, n, is_mixed, len(vectors))
        gram = own_gram(vectors)
        own = torch.einsum("avn,vwn,bwn->abn", combination, gram, combination) / t
        total, at_own, log_weights = denominators(sums, own, request)
        scale = 1 / (n * sum(request.weights.values()))
        if any(ctx.needs_input_grad):
            log_weights += math.log(scale / t)
            if is_safe:
                again = tiles if isinstance(tiles, list) else exponentials(source, hidden, shift)
                add_gradient(source, again, log_weights, shift)
            else:
                add_shifted_gradient(source, hidden, log_weights)
            at_mix = add_own(vectors, combination, gram, at_own * (scale / t), source.gradient)
            if isinstance(source, Mixed):
                at_mix += source.at_mix * t
            ctx.found = source.gradient, at_mix if is_mixed else torch.zeros_like(mix)
            ctx.save_for_backward(vectors, temperature)
        return (total * scale).to(vectors.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # a second derivative would come out wrong
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.found is None:
            raise RuntimeError("the gradient of a gcl_loss can be taken once; compute the loss again")
        (gradient, at_mix), ctx.found = ctx.found, None  # given away: a copy would be as large as the vectors
        vectors, temperature = ctx.saved_tensors
        by_temperature = None
        if ctx.needs_input_grad[2]:
            # Every logit e . c / t has its share of the gradient in its row and in its column: e . gradient
            # counts it twice.
            by_temperature = (-0.5 * upstream * (vectors * gradient).sum() / temperature).to(temperature.dtype)
        return gradient.mul_(upstream), at_mix.mul_(upstream), by_temperature, None


def to_triplet(mix: Tensor, n: int, is_mixed: bool, count: int) -> Tensor:
    """Return M (3, V, N) float64: the vectors of the three modalities are M times the V given ones."""
    combination = torch.eye(3, count, dtype=torch.float64, device=mix.device)[:, :, None].repeat(1, 1, n)
    if is_mixed:
        combination[2] = mix
    return combination


def own_gram(vectors: Tensor) -> Tensor:
    """Return the products (V, V, N) of each sample's own vectors (V, N, D), in float64."""
    gram = vectors.new_empty(len(vectors), len(vectors), vectors.shape[1], dtype=torch.float64)
    for start in range(0, vectors.shape[1], OWN):
        part = vectors[:, start : start + OWN].double()
        gram[:, :, start : start + OWN] = torch.einsum("vnd,wnd->vwn", part, part)
    return gram


def add_own(vectors: Tensor, combination: Tensor, gram: Tensor, at_own: Tensor, gradient: Tensor) -> Tensor:
    """Add to the gradient what own columns (3, 3, N) give; return that at the mix, (V, N)."""
    both = at_own + at_own.transpose(0, 1)
    at_gram = torch.einsum("avn,abn,bwn->vwn", combination, both, combination).to(vectors.dtype)
    for v, w in itertools.product(range(len(vectors)), repeat=2):
        gradient[v].addcmul_(at_gram[v, w, :, None], vectors[w])
    return torch.einsum("bn,bvn,vwn->wn", both[2], combination, gram)


def denominators(sums: Tensor, own: Tensor, request: Request) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss times N sum w, its gradient at own columns (3, 3, N), and C (3, 3, N), see gcl.losses.tiled."""
    rows = request.rows
    sums, own_rows = sums[..., rows], own[..., rows]
    at_own, log_weights = torch.zeros_like(own), torch.full_like(own, -torch.inf)
    total = own.new_zeros(())
    rule = RULES[request.rule]
    for (a, b), weight in request.weights.items():
        kept, others = list(rule.own(a, b)), list(rule.others(a, b))
        log_z = torch.cat([sums[a, others], own_rows[a, kept]]).logsumexp(0)
        total += weight * (log_z - own_rows[a, b]).sum()
        at_own[a, kept, rows] += weight * (own_rows[a, kept] - log_z).exp()
        at_own[a, b, rows] -= weight
        log_weights[a, others, rows] = log_weights[a, others, rows].logaddexp(math.log(weight) - log_z)
    return total, at_own, log_weights
