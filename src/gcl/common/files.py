"""Files that appear whole or not at all, and their hashes."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gcl.common.errors import UserError

log = logging.getLogger(__name__)

HELD = ".held"  # a file beside half-written output that its process has locked
KEY = "key"  # a file that says what unfinished work is


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    What is written there may be a file or a folder (make it yourself). A folder that already stands at
    `path` is replaced. The rename stays within one file system, so a reader never sees half of it. What a killed
    process leaves is for `sweep`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    with (holder / ".new").open("w") as lock:
        with suppress(OSError):  # a file system may have no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
            Path(lock.name).rename(holder / HELD)  # which has its name once it is locked
        try:
            temporary = holder / path.name
            yield temporary
            if temporary.is_dir() and path.is_dir():
                path.rename(holder / "replaced")
            os.replace(temporary, path)
        finally:
            shutil.rmtree(holder, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written below a folder; living ones hold a lock on theirs."""
    for held in [*folder.rglob(f".*/{HELD}")]:
        with suppress(OSError), held.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(held.parent)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock on a file that the system releases when the process ends, however it ends.

    Raises:
        UserError: another process holds it, and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                file.close()
                raise UserError(f"another process holds {path}; wait until it ends, or end it") from error
            log.info("another process holds %s: waiting until it ends", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # whoever held it has removed it
    try:
        yield
    finally:
        path.unlink()
        file.close()


@contextmanager
def unfinished(output: Path) -> Iterator[Path]:
    """Yield a folder beside an output for what a killed process leaves to the next, which `begin` begins.

    One process at a time works for an output: a job that outlived its killed Snakemake may be at it. At the end, unless
    by an error, the folder is removed.
    """
    work = output.with_name(f".{output.name}.unfinished")
    with locked(output.with_name(f".{output.name}.lock")):
        yield work
        shutil.rmtree(work, ignore_errors=True)


def key_of(*parts: Any) -> str:
    """Name work by everything it depends on."""
    return hashlib.sha256("\n".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()


def begin(folder: Path, key: str) -> None:
    """Keep what a process that was killed left in a folder, if it was begun for the same key; else empty the folder."""
    if (folder / KEY).exists() and (folder / KEY).read_text(encoding="utf-8") == key:
        sweep(folder)
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / KEY).write_text(key, encoding="utf-8")


def walked(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield everything below a folder that is no folder; linked folders are entered, each once, so that loops end.

    Args:
        folder: where to look.
        on_error: called for a folder that can't be read; none: it counts as empty.
    """
    seen = set()
    for root, folders, names in os.walk(folder, onerror=on_error, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(root) / name for name in names)


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, two spaces, a final newline, no NaN."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
