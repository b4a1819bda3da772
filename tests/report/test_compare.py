"""How far results are from the committed ones, said in a line."""

import json
import subprocess

import pytest

from gcl.report.compare import compare

HEADER = "backbone,recipe,seed,benchmark,task,pool,calibration,measure,value,ci_low,ci_high,n"


def written(folder, values, mean):
    folder.mkdir(exist_ok=True)
    lines = [f"b,r,0,x,t{i},p,none,Success@1,{value},0,1,9" for i, value in enumerate(values)]
    (folder / "scores.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    (folder / "metrics.json").write_text(json.dumps({"x": {"b": {"r": mean}}}))


@pytest.fixture
def results(tmp_path):
    """A folder with a space in its name, below a repository, committed."""
    written(tmp_path / "some results", [0.1, 0.2], 50.0)
    who = ["-c", "user.name=x", "-c", "user.email=x@y"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "x"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    return tmp_path / "some results"


def test_equal_results_are_within_the_tolerance(results):
    assert compare(results).endswith("0 of 2 scores differ from the committed ones; means by 0.00 points at most, "
                                     "within the tolerance of 0.1 for another machine")  # fmt: skip


def test_far_and_foreign_results_are_said(results):
    written(results, [0.1, 0.3, 0.4], 50.2)
    line = compare(results)
    assert "1 of 2 scores differ" in line
    assert "1 are on one side only, since another config was run" in line
    assert "means by 0.20 points at most, more than the tolerance of 0.1" in line


def test_without_a_commit_there_is_nothing_to_compare_with(tmp_path):
    written(tmp_path / "results", [0.1], 1.0)
    assert "nothing of it is committed" in compare(tmp_path / "results")
