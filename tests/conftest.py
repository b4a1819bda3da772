import subprocess
from pathlib import Path

import numpy as np
import pytest

from gcl.config import Project, load
from gcl.items import Contents, Item, Qrel, Task
from gcl.strict import load_yaml

ROOT = Path(__file__).resolve().parents[1]


class Same(dict):
    """Digests of images that need no files: every location is its own."""

    def __missing__(self, location):
        return location


SAME = Same()


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def project() -> Project:
    return load(load_yaml(ROOT / "config/config.yaml"), ROOT / "config")


@pytest.fixture
def toy_benchmark():
    """Three text queries over a pool of four images and a pool of four texts; the last two images are one."""
    tables = {
        "query_text": [Item(f"q{i}", f"query {i}", ()) for i in range(3)],
        "pool_image": [Item(f"i{i}", None, (f"pictures/{min(i, 2)}.png",)) for i in range(4)],
        "pool_text": [Item(f"t{i}", f"text {i}", ()) for i in range(4)],
    }
    pools = {"local": ["pool_image"], "global": ["pool_image", "pool_text"]}
    tasks = [Task("t_i", "text", "image", "query_text", pools)]
    qrels = [Qrel("t_i", "q0", "i0"), Qrel("t_i", "q0", "i1"), Qrel("t_i", "q1", "i2")]
    return Contents(tables, tasks, qrels)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def unit_rows(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    rows = rng.normal(size=(n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def copy_working_tree(to: Path) -> Path:
    """Copy the files git tracks or would track, as they are now."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, to / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return to
