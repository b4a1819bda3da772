"""Names to rows, with an error that helps."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from gcl.common.errors import UserError

T = TypeVar("T")


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the closest known name, or the list of all when none is close."""
    names = sorted(known)
    if close := difflib.get_close_matches(name, names, n=1):
        return f" (did you mean '{close[0]}'?)"
    return f" (known: {', '.join(names)})" if names else ""


def lookup(rows: Mapping[str, T], name: str, kind: str, where: str) -> T:
    """Return rows[name].

    Raises:
        UserError: no such name; says which is close and where names are defined.
    """
    if name not in rows:
        raise UserError(f"unknown {kind} '{name}'{suggestion(name, rows)}; names are defined in {where}")
    return rows[name]
