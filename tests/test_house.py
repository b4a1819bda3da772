"""What the rooms promise: sizes, doors, and that a test imports no other test."""

import ast
import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import gcl

MODULES = sorted(Path(gcl.__file__).parent.rglob("*.py"))
LONGEST, FULLEST = 300, 12  # lines of a module, entries of a folder
SHELVES = {"benchmarks"}  # folders with a file for each row of a registry


def test_no_module_is_too_long_and_no_folder_too_full():
    assert {path.name: n for path in MODULES if (n := len(path.read_text().splitlines())) > LONGEST} == {}
    folders = {path.parent for path in MODULES if path.parent.name not in SHELVES} - {Path(gcl.__file__).parent}
    entries = {folder: [p for p in folder.iterdir() if p.name != "__pycache__"] for folder in folders}
    assert {folder.name: len(paths) for folder, paths in entries.items() if len(paths) > FULLEST} == {}


def test_variables_are_nouns():
    """A name says what it holds, not that something was found, made or asked for."""
    for path in MODULES:
        tree = ast.walk(ast.parse(path.read_text()))
        names = {n.id if isinstance(n, ast.Name) else n.arg for n in tree if isinstance(n, ast.Name | ast.arg)}
        assert not names & {"found", "made", "given", "asked", "said", "mine"}, path


def test_no_test_imports_another(root):
    for path in (root / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if name.split(".")[-1].startswith("test_")], path


@pytest.mark.parametrize("name", sorted({*gcl.__all__} - {"Hits", "Model"}))
def test_every_door_says_what_it_takes_and_its_example_runs(name):
    door = getattr(gcl, name)
    assert {"Args:", "Raises:", "Example:"} <= {line.strip() for line in (inspect.getdoc(door) or "").splitlines()}
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in finder.find(door, name, module=importlib.import_module(door.__module__)):
        runner.run(test)
    found = runner.summarize()
    assert found.attempted > 0
    assert found.failed == 0


def test_importing_the_package_costs_nothing():
    code = "import sys, gcl; print([m for m in ('torch', 'numpy', 'pyarrow', 'onnxruntime') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_what_embeds_searches_and_scores_needs_no_torch():
    """The core install has none."""
    code = "import sys; sys.modules['torch'] = None; import gcl; gcl.load, gcl.search, gcl.evaluate; print('ok')"
    copy = "import sys; sys.modules |= dict.fromkeys(['torch', 'onnx']); import gcl, numpy; pool = numpy.eye(3);"
    copy += "print(gcl.search(pool[[2]], pool, k=1, rounded=gcl.rounded(pool)).rows.tolist())"
    assert subprocess.run([sys.executable, "-c", copy], capture_output=True, text=True, check=True).stdout == "[[2]]\n"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "ok\n"
