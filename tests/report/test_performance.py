"""The table of performance, and that the scripts behind it run, FAISS or not."""

import json
import subprocess
import sys

import pytest

from gcl.report.performance import performance, write_performance


def test_the_page_shows_every_measurement_in_order(tmp_path):
    for name, title in (("zzz", "Other"), ("topk", "Exact search"), ("machine", "The machine")):
        tables = [{"caption": "of 2", "columns": ["a", "b"], "rows": [["x", "1"]]}]
        (tmp_path / f"{name}.json").write_text(json.dumps({"title": title, "machine": {"cores": 2}, "tables": tables}))
    text = performance(tmp_path)
    assert text.index("## The machine") < text.index("## Exact search") < text.index("## Other")
    assert text.count("of 2\n\n| a | b |\n| --- | ---: |\n| x | 1 |\n") == 3
    assert "`python benchmarks/topk.py`; cores 2" in text


def test_without_measurements_nothing_is_written(tmp_path):
    write_performance(tmp_path, tmp_path / "out.md")
    assert not (tmp_path / "out.md").exists()


def test_a_folder_without_measurements_says_so(tmp_path):
    command = [
        sys.executable,
        "-m",
        "gcl.report.performance",
        "--benchmarks",
        str(tmp_path),
        "--output",
        str(tmp_path / "x y"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "holds no measurements (*.json)" in done.stderr


def test_a_broken_measurement_is_named(tmp_path):
    (tmp_path / "topk.json").write_text('{"title": "x"}')
    with pytest.raises(ValueError, match=r"topk\.json"):
        performance(tmp_path)


def run(root, tmp_path, script, *arguments):
    """Run a script where FAISS is not installed."""
    hidden = "import sys, runpy; sys.modules['faiss'] = None; sys.argv = sys.argv[1:]; sys.path.insert(0, sys.argv[1]);"
    code = f"{hidden} del sys.argv[1]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, f"benchmarks/{script}.py", "benchmarks", *arguments]
    done = subprocess.run([*command, "--results", str(tmp_path)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((tmp_path / f"{script}.json").read_text())


@pytest.mark.slow
def test_search_is_measured_without_faiss(root, tmp_path):
    said, found = run(root, tmp_path, "topk", "--candidates", "3000", "--repeats", "1")
    assert "FAISS is not installed" in said
    rows = [row for row in found["tables"][0]["rows"] if row[3] == "ours"]
    assert len(rows) == 7
    for *_, right in rows:
        places, _, of = right.partition(" of ")
        assert places == of


@pytest.mark.slow  # a process for each loss, to measure its memory
def test_the_loss_is_measured(root, tmp_path):
    run(root, tmp_path, "machine", "--size", "64", "--repeats", "1")
    _, found = run(root, tmp_path, "loss", "--sizes", "96", "--repeats", "1", "--errors", "64")
    times, errors = found["tables"]
    assert times["rows"][0][0] == "clip"
    assert len(times["rows"]) == 8
    assert all(float(row[-1]) < 1e-5 and float(row[-2]) < 1e-5 for row in errors["rows"])
