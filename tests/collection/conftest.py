"""A tiny model, and a collection that it has indexed."""

import pytest

from gcl.collection.index import index
from gcl.prepare.prepare import prepare_pairs
from support.collection import collect
from support.training import exported


@pytest.fixture(scope="session", params=["clip", "vista"])
def model(request, tmp_path_factory, root):
    """A tiny exported model with calibration, one of each kind of fusion."""
    folder = tmp_path_factory.mktemp("model")
    prepare_pairs(root / "data/openclipart", "pictures", 0.0, 30, folder / "prepared")
    return exported(request.param, folder, folder / "prepared")


@pytest.fixture
def made(model, tmp_path):
    """A collection and its index."""
    collect(tmp_path / "things")
    index(tmp_path / "things", model, tmp_path / "index", "cpu")
    return tmp_path / "things", tmp_path / "index"
