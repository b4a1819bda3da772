"""What a command shows when something goes wrong: one line for what the user can mend, a traceback for our faults."""

import subprocess
import sys

import pytest

from gcl.common.errors import UserError
from gcl.common.rows import made_by

COMMAND = """
from gcl.common.command import parser, run
from gcl.common.errors import UserError
def stage():
    raise {error}
run(parser("x", "About.", ""), stage)
"""


def shown(error):
    done = subprocess.run([sys.executable, "-c", COMMAND.format(error=error)], capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


def test_what_the_user_can_mend_is_one_line():
    assert shown("UserError('no such thing')") == "error: no such thing\n"


@pytest.mark.parametrize("error", ["ValueError('x')", "KeyError('x')", "AssertionError()"])
def test_a_fault_of_ours_keeps_its_traceback(error):
    assert "Traceback (most recent call last)" in shown(error)


def test_a_file_that_can_not_be_read_is_told_from_one_that_is_not_as_expected(tmp_path):
    (tmp_path / "x").write_text("{}")
    with pytest.raises(UserError, match=r"x does not exist; run `train`"), made_by("train", tmp_path / "no/x"):
        (tmp_path / "no/x").read_text()
    broken = r"x is broken \(EOFError\(\)\); delete it and run `train` again"
    with pytest.raises(UserError, match=broken), made_by("train", tmp_path / "x"):
        raise EOFError
    odd = r"KeyError\('a'\), found at test_command\.py:\d+\).*else this is a fault of gcl"
    with pytest.raises(UserError, match=odd), made_by("train", tmp_path / "x"):
        {}["a"]
    with pytest.raises(UserError, match="^said already$"), made_by("train", tmp_path / "x"):
        raise UserError("said already")
