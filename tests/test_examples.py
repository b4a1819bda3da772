"""The files in examples/, run as they stand there."""

import subprocess
import sys

import pytest
from PIL import Image

from gcl.export.export import export
from support.training import pairs, recipe, row, run, weights  # noqa: F401 - fixtures among them


def example(root, name, *arguments):
    command = [sys.executable, str(root / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight plain pictures with captions."""
    made = tmp_path_factory.mktemp("some pictures")
    for number in range(8):
        Image.new("RGB", (40, 30), (30 * number, 100, 255 - 30 * number)).save(made / f"{number}.png")
        (made / f"{number}.txt").write_text(f"picture number {number}")
    return made


def test_the_loss_in_a_loop_of_open_clips_style(root, pairs, weights, folder, tmp_path):  # noqa: F811
    run(row(), recipe(max_steps=1), pairs, weights, tmp_path / "c")
    losses = example(
        root, "train_loop.py", "--model", f"local-dir:{tmp_path / 'c/seed0'}", "--pairs", folder, "--batch-size", 4
    )
    assert len(losses) == 2
    assert all(0 < float(loss) < 10 for loss in losses)


def test_a_folder_is_searched_by_one_of_its_pictures(root, pairs, weights, folder, tmp_path):  # noqa: F811
    run(row(), recipe(max_steps=1), pairs, weights, tmp_path / "c")
    export("all", "tiny", row(), weights, tmp_path / "c", None, tmp_path / "onnx")
    lines = example(root, "search_folder.py", tmp_path / "onnx/seed0", folder, "--image", folder / "3.png")
    assert len(lines) == 8
    assert lines[0] == f"1.000  {folder / '3.png'}"


def test_a_run_in_trecs_format_is_scored(root, tmp_path):
    (tmp_path / "run").write_text("q Q0 a 1 0.9 x\nq Q0 b 2 0.8 x\n")
    (tmp_path / "qrels").write_text("q 0 b 1\n")
    assert example(root, "score_trec.py", tmp_path / "run", tmp_path / "qrels", "Success@1", "Success@2") == [
        "Success@1 0.0000",
        "Success@2 1.0000",
    ]
