from pathlib import Path

import numpy as np
import pytest

from gcl.common.rows import load_yaml
from gcl.config.project import Project, load
from gcl.data.items import Contents, Item, Qrel, Task
from support.workflow import ROOT

LONGEST = ("test_workflow.py", "test_kills.py", "test_encoders.py", "test_conda.py", "test_own_pairs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest modules, so that no worker waits for another at the end (--no-loadscope-reorder)."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


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
