"""What every stage's command line has in common: parsing, errors without traceback, the manifest."""

import argparse
import atexit
import contextlib
import errno
import gc
import hashlib
import importlib.metadata
import io
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from gcl.common.errors import UserError
from gcl.common.files import sha256_file, write_json
from gcl.common.progress import log_to_stderr

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
PACKAGES = (
    "numpy",
    "pillow",
    "pyarrow",
    "torch",
    "open_clip_torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "ir_measures",
)


def parser(name: str, about: str | None, example: str) -> argparse.ArgumentParser:
    """Make the parser of `gcl <name>`, with --manifest."""
    options = argparse.ArgumentParser(
        prog=f"gcl {name}",
        description=about,
        epilog=f"example: gcl {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--manifest", type=Path, help="JSON file for versions, device, time and memory of this run")
    return options


def run(options: argparse.ArgumentParser, stage: Callable[..., dict[str, Any] | None]) -> None:
    """Call a stage with its parsed arguments; a UserError is one clear message and exit code 1."""
    # Looking for garbage takes a fifth of a process that imports torch; at its end nothing needs to be found.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # as files: UTF-8 whatever the locale
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    arguments = vars(options.parse_args())
    manifest = arguments.pop("manifest")
    log_to_stderr()
    started = time.time()
    try:
        check_environment()
        outcome = stage(**arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    except PermissionError as error:
        sys.exit(f"error: {error}; is it yours to read, and where results go, to write? (--output, --rejects)")
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        sys.exit(f"error: {error}; nothing was left half-written: make room, then run the same again")
    if manifest is not None and os.environ.get("RANK", "0") == "0":
        write_json(manifest, provenance(options.prog, arguments, started) | (outcome or {}))


def check_environment() -> None:
    """Refuse to run on another Python than that of the conda environment that the workflow asked for.

    Snakemake activates the environment by a shell script whose failure it does not see.

    Raises:
        UserError: the workflow runs with --use-conda, and this Python is not the environment's.
    """
    if "GCL_CONDA" not in os.environ:
        return
    prefix = os.environ.get("CONDA_PREFIX", "")
    if not prefix or not Path(sys.executable).absolute().is_relative_to(Path(prefix).absolute()):
        raise UserError(
            f"this job runs {sys.executable}, which is not in the environment that --use-conda made "
            f"({prefix or 'none is active'}); is there a space in the path of conda or of this folder?"
        )


def provenance(command: str, arguments: dict[str, Any], started: float) -> dict[str, Any]:
    """Describe a run: what was asked, on what, with what, how long and how much memory."""
    return {
        "command": command,
        "arguments": {key: str(value) for key, value in arguments.items()},
        "git": git_state(),
        "inputs": {str(path): digest(path) for path in sorted(set(input_paths(arguments.values())))},
        "machine": {"system": platform.platform(), "python": platform.python_version(), "executable": sys.executable},
        "packages": dict(installed(PACKAGES)),
        "wall_time_s": round(time.time() - started, 3),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def installed(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield those packages that are installed, with their versions."""
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def input_paths(values: Iterable[Any]) -> Iterable[Path]:
    """Find the existing paths among arguments."""
    for value in values:
        if isinstance(value, Path) and value.exists():
            yield value
        elif isinstance(value, list):
            yield from input_paths(value)


def digest(path: Path) -> str:
    """Hash a file, or a folder by the sorted names and hashes of its files."""
    if path.is_file():
        return sha256_file(path)
    lines = [f"{p.relative_to(path)} {sha256_file(p)}\n" for p in sorted(identifying(path))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def identifying(folder: Path) -> Iterator[Path]:
    """Yield the files by which a folder is known: of a fetched data set, which may be large, the list of its hashes."""
    if (folder / "fetched.json").exists():
        yield folder / "fetched.json"
        return
    for path in folder.iterdir():
        if path.is_file():
            yield path
        elif path.is_dir() and (not path.is_symlink() or (path / "fetched.json").exists()):
            yield from identifying(path)


def git_state() -> dict[str, Any]:
    """Return the commit and whether the working tree differs from it; empty outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": commit.stdout.strip(), "is_dirty": bool(status.stdout.strip())}
