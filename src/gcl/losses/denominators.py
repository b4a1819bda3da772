"""Which columns the denominator of each direction has: the rules of the family of losses."""

from collections.abc import Callable

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
