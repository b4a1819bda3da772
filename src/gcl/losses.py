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

import math
from collections.abc import Mapping

import torch
from torch import Tensor

MODALITIES = ("image", "text", "image_text")


def columns_kept(denominator: str, a: int, b: int, n: int) -> Tensor:
    """Return (N, 3, N) bool: row j, modality m, sample k is in the denominator of direction a > b."""
    kept = torch.ones(n, len(MODALITIES), n, dtype=torch.bool)
    own = torch.eye(n, dtype=torch.bool)  # (N, N): same sample
    others = [m for m in range(len(MODALITIES)) if m != b]
    match denominator:
        case "full":
            pass
        case "no_self":
            kept[:, a] &= ~own
        case "no_self_no_copositive":
            kept[:, others] &= ~own[:, None]
        case "cross_only":
            kept[:, a] = False
        case "target_only":
            kept[:, others] = False
        case _:
            raise ValueError(f"unknown denominator '{denominator}'")
    return kept


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
    """Compute the loss of the module's docstring, exactly.

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
        ValueError: an unknown denominator.

    Source: arXiv 2509.25638; the variants remove terms of its denominator.
    """
    stacked = torch.stack([embeddings[m] for m in MODALITIES])  # (3, N, D)
    n = stacked.shape[1]
    blocked = None if masked is None else (masked & ~torch.eye(n, dtype=torch.bool))[:, None]  # (N, 1, N)
    by_query: dict[int, list[tuple[int, float]]] = {}
    for direction, weight in directions.items():
        a, b = (MODALITIES.index(m) for m in direction.split(">"))
        by_query.setdefault(a, []).append((b, weight))
    total = stacked.new_zeros(())
    for a, targets in by_query.items():
        logits = torch.einsum("jd,mkd->jmk", stacked[a], stacked) / temperature  # (N, 3, N)
        log_z: dict[bytes, Tensor] = {}  # rules that ignore b share one log-sum-exp
        for b, weight in targets:
            kept = columns_kept(denominator, a, b, n)
            if blocked is not None:
                kept &= ~blocked
            key = b"" if denominator in ("full", "no_self", "cross_only") else bytes([b])
            if key not in log_z:
                log_z[key] = logits.masked_fill(~kept, -math.inf).flatten(1).logsumexp(1)  # (N,)
            positive = logits[:, b].diagonal()  # (N,)
            total = total + weight * (log_z[key] - positive).mean()
    return total / sum(directions.values())
