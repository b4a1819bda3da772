"""What lies in a folder of pairs: every file once, links followed, and which files belong to which split."""

import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from gcl.common.errors import UserError
from gcl.common.files import walked

log = logging.getLogger(__name__)
T = TypeVar("T")

SYSTEM = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")  # and ._name, which macOS puts into archives
SPLIT = re.compile(r"(train|training|validation|valid|val|dev|test)(?:[-_.]?\d.*)?", re.IGNORECASE)
TRAINING = {"train", "training"}


def is_of_the_system(name: str) -> bool:
    """Tell whether a path belongs to an operating system and not to the data."""
    return any(part in SYSTEM or part.startswith("._") for part in Path(name).parts)


def files_below(folder: Path) -> list[Path]:
    """List everything below a folder that is no folder, in the order of the names; linked folders are entered once.

    Raises:
        UserError: a folder that may not be read.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"can't read {error.filename}: {error.strerror}") from error

    files = list(walked(folder, fail))
    kept = [path for path in files if not is_of_the_system(str(path.relative_to(folder)))]
    if len(kept) < len(files):
        log.info("%s: skipped %d files of operating systems (._*, __MACOSX, .DS_Store)", folder, len(files) - len(kept))
    return sorted(kept)


def split_of(path: Path) -> str | None:
    """Return the split that a file's name or a folder above it says: train-00000-of-00001.parquet, validation/x."""
    for part in (path.stem, *reversed(path.parts[:-1])):
        if match := SPLIT.fullmatch(part):
            return match[1].lower()
    return None


def of_training(items: Iterable[T], folder: Path, path_of: Callable[[T], Path]) -> list[T]:
    """Return what belongs to the training split, all where nothing names a split.

    Raises:
        UserError: several splits, none of which is for training.
    """
    items = list(items)
    splits = [split_of(path_of(item).relative_to(folder)) for item in items]
    names = sorted({split for split in splits if split})
    if len(names) < 2:
        return items
    if not TRAINING & set(names):
        raise UserError(f"{folder} holds the splits {', '.join(names)} and none named train; give the folder of one")
    chosen = [item for item, split in zip(items, splits, strict=True) if split in TRAINING or split is None]
    log.warning("%s holds the splits %s: train alone is read", folder, ", ".join(names))
    return chosen
