"""Data sets of one's own are known by their content: an edited, added or lost file re-runs what depends on it.

A file's hash is remembered with its size and time, and taken again only where these differ: so a mere `touch`, and a
start with nothing changed, read no file.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from gcl.common.errors import UserError
from gcl.common.files import sha256_file, walked, write_json
from gcl.config.datasets import Dataset

OURS = ("fetched.json", "rejects.csv", ".unpacked")  # what `fetch` and `check` write there


def files_of(folder: Path) -> list[Path]:
    """List the regular files below a folder, in order, but for what the stages write there."""
    paths = (path for path in walked(folder) if not set(path.relative_to(folder).parts) & set(OURS))
    return sorted(path for path in paths if path.is_file())


def hash_of(path: Path) -> str:
    """Return the sha256 of a file.

    Raises:
        UserError: it can't be read.
    """
    try:
        return sha256_file(path)
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}; make it readable, or move it away") from error


def is_unpinned(row: Dataset) -> bool:
    """Tell whether nothing else says what a data set's files hold: it lists none, or some without source and hash."""
    bare = [file for file in row.files if not (file.sha256 or file.package or file.urls or file.hub)]
    return not row.files or (bool(bare) and not row.archives)


def fingerprint(folder: Path, memory: Path, names: Sequence[str] = ()) -> str:
    """Name the content of a folder: the same as long as the names and bytes of its files are.

    Args:
        folder: of the data set.
        memory: JSON file of what was found last time, written where something is new.
        names: of the files that count, relative to the folder; none: all.

    Raises:
        UserError: a file that may not be read; names it.
    """
    known = json.loads(memory.read_text(encoding="utf-8")) if memory.exists() else {}
    now: dict[str, list[int | str]] = {}
    paths = [path for path in (folder / name for name in names) if path.is_file()] if names else files_of(folder)
    for path in paths:
        name, state = os.fsencode(path.relative_to(folder)).hex(), path.stat()  # a name may be in any bytes
        size_and_time = [state.st_size, state.st_mtime_ns]
        before = known.get(name)
        digest = before[2] if before and before[:2] == size_and_time else hash_of(path)
        now[name] = [*size_and_time, digest]
    if now != known:
        write_json(memory, now)
    lines = "".join(f"{name} {row[2]}\n" for name, row in now.items())
    return hashlib.sha256(lines.encode()).hexdigest()
