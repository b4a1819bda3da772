"""Progress of long work, on stderr: a bar on a terminal, one line per few seconds in a log."""

import logging
import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], what: str, unit: str, total: int | None = None) -> Iterable[T]:
    """Yield items and report count, rate and time left."""
    on_terminal = sys.stderr.isatty()
    form = None if on_terminal else "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}, {rate_fmt}]\n"
    return tqdm(
        items,
        desc=what,
        unit=unit,
        total=total,
        mininterval=0.2 if on_terminal else 5,
        bar_format=form,
        ascii=not on_terminal,
        dynamic_ncols=on_terminal,
    )


def log_to_stderr() -> None:
    """Set the handler of a command; library code sets none. Of other libraries only what is wrong is shown."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    for name in ("gcl", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of each constant that it can't fold
