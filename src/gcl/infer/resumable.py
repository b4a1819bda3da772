"""Arrays on disk that grow by blocks of rows; a process that was killed goes on after the last whole block."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gcl.common.arrays import Floats
from gcl.common.errors import UserError
from gcl.common.files import KEY, atomic_path, begin, write_json

PROGRESS = "progress.json"
ITEM = np.dtype("<f4").itemsize


class Growing:
    """A folder of (n, D) float32 arrays under construction."""

    def __init__(self, folder: Path, key: str, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Go on with what the folder has, if it was begun for the same key, else begin.

        Args:
            folder: where the arrays lie until they are finished.
            key: says what is being computed from what; anything else in the folder is thrown away.
            shapes: of the finished arrays, by name.
        """
        self.folder, self.shapes = folder, shapes
        self.steps: dict[str, int] = {}
        self.rows = dict.fromkeys(shapes, 0)
        begin(folder, key)
        if (folder / PROGRESS).exists():
            state = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
            self.steps, self.rows = state["steps"], state["rows"]
            return
        self.check_space()
        for name, shape in shapes.items():
            with self.path(name).open("wb") as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
        self.save()

    def check_space(self) -> None:
        """Raise ValueError if the finished arrays would not fit on the disk."""
        needed = sum(rows * width * ITEM for rows, width in self.shapes.values())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"the arrays take {needed / 1e9:.2f} GB, but {self.folder.parent} has {free / 1e9:.2f} GB free"
            )

    def path(self, name: str) -> Path:
        """Return the file of an array."""
        return self.folder / f"{name}.npy"

    def done(self, step: str) -> int:
        """Return how far a step had come."""
        return self.steps.get(step, 0)

    def save(self) -> None:
        """Write how far everything is."""
        write_json(self.folder / PROGRESS, {"steps": self.steps, "rows": self.rows})

    def append(self, step: str, stop: int, blocks: Mapping[str, Floats]) -> None:
        """Add blocks of rows to arrays, after which `step` has come to `stop`.

        Raises:
            UserError: NaN or infinity: an error here, where its cause is near.
        """
        for name, block in blocks.items():
            if not np.isfinite(block).all():
                bad = int((~np.isfinite(block)).any(1).sum())
                raise UserError(f"{bad} of {len(block)} {name} embeddings hold NaN or infinity, up to row {stop}")
            width = self.shapes[name][1]
            with self.path(name).open("r+b") as file:
                np.lib.format.read_magic(file)
                np.lib.format.read_array_header_1_0(file)
                file.seek(self.rows[name] * width * ITEM, os.SEEK_CUR)
                file.write(np.ascontiguousarray(block, "<f4").tobytes())
            self.rows[name] += len(block)
        self.steps[step] = stop
        self.save()

    def check(self) -> None:
        """Raise ValueError unless every array is whole."""
        if unfinished := {name: n for name, n in self.rows.items() if n != self.shapes[name][0]}:
            raise UserError(f"{self.folder}: {unfinished} rows of {dict(self.shapes)} were written")


def move_into_place(folder: Path, output: Path) -> None:
    """Move finished arrays, in the folder or in folders below it, to `output`."""
    for path in [*folder.rglob(PROGRESS), *folder.rglob(KEY)]:
        path.unlink()
    with atomic_path(output) as path:
        folder.rename(path)
