"""Which columns the denominator of each direction has: the rules of the family of losses.

Modalities are numbers: 0 image, 1 text, 2 image_text. Column (m, k) of the row of sample j in direction a > b is the
similarity of sample j in modality a with sample k in modality m.
"""

from collections.abc import Callable
from typing import NamedTuple

Columns = Callable[[int, int], tuple[int, ...]]  # a, b -> modalities m


class Rule(NamedTuple):
    """The columns of a denominator."""

    own: Columns  # m whose column (m, j), of the row's own sample, is in it
    others: Columns  # m whose columns (m, k), of all other samples, are in it


def everything(a: int, b: int) -> tuple[int, ...]:
    """All three modalities."""
    return (0, 1, 2)


def across(a: int, b: int) -> tuple[int, ...]:
    """The two modalities that the row is not of."""
    return tuple(m for m in range(3) if m != a)


def towers(a: int, b: int) -> tuple[int, ...]:
    """Images and texts, without both together."""
    return (0, 1)


def target(a: int, b: int) -> tuple[int, ...]:
    """The positive's modality."""
    return (b,)


RULES: dict[str, Rule] = {
    "full": Rule(everything, everything),
    "no_self": Rule(across, everything),
    "no_self_no_copositive": Rule(target, everything),
    "no_fused": Rule(target, towers),
    "cross_only": Rule(across, across),
    "target_only": Rule(target, target),
}
