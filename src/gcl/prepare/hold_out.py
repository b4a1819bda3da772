"""Hold a share of the training pairs out, to be measured on: chosen by their content, never split from their like."""

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence

from gcl.common.errors import UserError
from gcl.data.records import Pair

HELD_OUT = "held_out"  # folder of these pairs, within that of the training pairs


def groups(images: Sequence[Hashable], captions: Sequence[str]) -> list[list[int]]:
    """Gather pairs that have an image or a caption in common, directly or by way of others.

    Args:
        images: what is equal for equal images, one for each of n pairs.
        captions: n captions; case and white space do not count.

    Returns:
        The rows of each group, in order of their first rows.
    """
    first: dict[Hashable, int] = {}
    links = [
        (first.setdefault(key, row), row)
        for row, (image, caption) in enumerate(zip(images, captions, strict=True))
        for key in (("image", image), ("caption", " ".join(caption.casefold().split())))
    ]
    members: dict[int, list[int]] = {}
    for row, number in enumerate(joined(len(images), links)):
        members.setdefault(number, []).append(row)
    return list(members.values())


def joined(n: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """Return for each of n things the first of all that it is linked with, directly or by way of others."""
    parent = list(range(n))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for a, b in links:
        one, other = sorted((root(a), root(b)))
        parent[other] = one
    return [root(row) for row in range(n)]


def hold_out(
    pairs: Sequence[Pair], digests: Mapping[str, str], share: float, least: int
) -> tuple[list[Pair], list[Pair]]:
    """Divide pairs into those that train and those that are measured on, each in order.

    Groups are taken in the order of a hash of their images, so that the choice depends on neither names nor order, and
    grows with the data without being drawn anew. A group that no longer fits stays in training.

    Args:
        pairs: n usable pairs.
        digests: sha256 of every image by its location.
        share: of the pairs that is held out.
        least: how many are held out at least.

    Raises:
        UserError: that would be more than half of the pairs.
    """
    wanted = max(round(share * len(pairs)), least)
    if 2 * wanted > len(pairs):
        raise UserError(
            f"{len(pairs)} pairs, of which {wanted} are to be held out and measured on: that leaves fewer than half "
            "for training; add pairs, or lower `least` or `share` of the benchmark's options in config/benchmarks.yaml"
        )
    images = [digests[pair.image] for pair in pairs]
    pair_groups = groups(images, [pair.texts[0] for pair in pairs])
    keys = [hashlib.sha256(min(images[row] for row in rows).encode()).hexdigest() for rows in pair_groups]
    chosen: set[int] = set()
    for _, rows in sorted(zip(keys, pair_groups, strict=True)):
        if len(chosen) + len(rows) <= wanted:
            chosen.update(rows)
    training = [pair for row, pair in enumerate(pairs) if row not in chosen]
    return training, [pairs[row] for row in sorted(chosen)]
