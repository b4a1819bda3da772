"""Files that appear whole or not at all, and their hashes."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    What is written there may be a file or a folder (make it yourself). A folder that already stands at
    `path` is replaced. The rename stays within one file system, so a reader never sees half of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary = holder / path.name
        yield temporary
        if temporary.is_dir() and path.is_dir():
            path.rename(holder / "replaced")
        os.replace(temporary, path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, two spaces, a final newline, no NaN."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")
