"""Small pairs in the forms that people have, and how `prepare` reads them."""

import csv
import io
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from gcl.prepare.pairs import reader_of_pairs
from gcl.prepare.prepare import usable


def picture(number=0, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 10 * number, np.uint8)).save(buffer, form)
    return buffer.getvalue()


def read(folder, reader="auto"):
    """The pairs that can be used, and by record why others can't."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) / "work"
        pairs, _ = usable(reader_of_pairs(reader).read(folder), 1.0, Path(scratch) / "rejects.csv", 1, work)
        with (Path(scratch) / "rejects.csv").open(newline="", encoding="utf-8") as file:
            return pairs, {row["record"]: row["reason"] for row in csv.DictReader(file)}


def beside(folder, name, caption, number=0, suffix=".txt"):
    """Write a picture and its side-car."""
    (folder / f"{name}.png").write_bytes(picture(number))
    (folder / f"{name}{suffix}").write_bytes(caption if isinstance(caption, bytes) else caption.encode())


def shard(path, members):
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
