"""Names to rows, with an error that helps."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

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


def providers(package: str, attribute: str) -> dict[str, str]:
    """Return the modules of a package that define an attribute, by their name; none of them is imported."""
    folder = Path(str(importlib.import_module(package).__file__)).parent
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    return {name: f"{package}.{name}" for name, text in texts.items() if f"\n{attribute} = " in text}


def provided(package: str, attribute: str, name: str, kind: str) -> Any:
    """Return what the module `name` of a package has as `attribute`; so a new module is all that a new name takes.

    Raises:
        UserError: no module of that name defines it; says which is close.
    """
    known = providers(package, attribute)
    module = lookup(known, name, kind, f"src/{package.replace('.', '/')}/, a module each")
    return getattr(importlib.import_module(module), attribute)
