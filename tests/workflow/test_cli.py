import os
import re
import subprocess
import sys

import pytest

from gcl.cli import commands
from gcl.common.command import digest


def gcl(*arguments, **variables):
    command = [sys.executable, "-m", "gcl.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)


@pytest.mark.parametrize("stage", commands())
def test_every_command_explains_itself_with_an_example(stage):
    done = gcl(stage, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\| +(torch|matplotlib)$", done.stderr, re.MULTILINE)  # a second and more
    assert "example:" in done.stdout
    example = done.stdout.partition("example:")[2]
    assert "..." not in example.replace("'{...}'", ""), example
    # What it reads lies where the workflow puts it: below data, config or results.
    assert not re.search(r"(?:^|\s)data/prepared", example)


def test_help_lists_every_command_without_heavy_imports():
    heavy = "[m for m in ('torch', 'numpy', 'pyarrow') if m in sys.modules]"
    code = f"import sys, gcl.cli; print(gcl.cli.usage()); print({heavy})"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(name in text for name in commands())
    assert text.rstrip().endswith("[]")


def test_an_unknown_command_is_answered_with_a_suggestion():
    done = gcl("retreive")
    assert done.returncode == 1
    assert "unknown command 'retreive' (did you mean 'retrieve'?)" in done.stderr


def test_a_bad_argument_is_a_message_not_a_traceback(tmp_path):
    done = gcl("infer", "--onnx", str(tmp_path), "--output", str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.strip().endswith("or --features, the towers' outputs of one")
    done = gcl("train", "--recipe", '{"epochs": "many"}')
    assert done.returncode == 2
    assert "Recipe: epochs:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fetched_data_set_is_known_by_the_list_of_its_files(tmp_path):
    """Its images may be terabytes, which a manifest must not read."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set/fetched.json").write_text('{"files": {}}')
    (tmp_path / "set/image").write_bytes(b"1")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/set").symlink_to(tmp_path / "set")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/note").write_text("x")
    before = digest(tmp_path / "data")
    (tmp_path / "set/image").write_bytes(b"2")
    assert digest(tmp_path / "data") == before
    (tmp_path / "set/fetched.json").write_text('{"files": {"image": 2}}')
    assert digest(tmp_path / "data") != before
    before = digest(tmp_path / "data")
    (tmp_path / "data/note").write_text("y")
    assert digest(tmp_path / "data") != before
