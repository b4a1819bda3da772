import subprocess
import sys

import pytest

from gcl.cli import OTHERS, STAGES


def gcl(*arguments):
    return subprocess.run([sys.executable, "-m", "gcl.cli", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("stage", [*STAGES, "bundle", "openclipart"])
def test_every_command_explains_itself_with_an_example(stage):
    done = gcl(stage, "--help")
    assert done.returncode == 0, done.stderr
    assert "example:" in done.stdout


def test_help_lists_every_command_without_heavy_imports():
    heavy = "[m for m in ('torch', 'numpy', 'pyarrow') if m in sys.modules]"
    code = f"import sys, gcl.cli; print(gcl.cli.usage()); print({heavy})"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(name in text for name in [*STAGES, *OTHERS])
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
