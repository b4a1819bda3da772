"""What takes long to make and is always the same: made once for all modules and workers of a run of the tests."""

import shutil
from collections.abc import Callable
from pathlib import Path

from gcl.common.files import atomic_path, locked


def shared(within: Path, name: str, make: Callable[[], Path]) -> Path:
    """Return a folder that `make` made, here or in another module or worker.

    Args:
        within: any folder that pytest gave in this run.
        name: of what is made.
        make: returns the folder; it is called if nothing of that name is there.
    """
    (base,) = (parent for parent in within.parents if parent.parent.name.startswith("pytest-of-"))
    place = base / "shared" / name
    with locked(place.with_name(f"{name}.lock")):
        if not place.exists():
            found = make()
            with atomic_path(place) as temporary:
                shutil.copytree(found, temporary)
    return place
