"""Join exported towers and heads to whole encoders: all that inference needs, in one folder.

In:  results/onnx/<backbone>/towers and results/onnx/<backbone>/<recipe>/seed<n>.
Out: image.onnx (pixels -> features), text.onnx (token ids -> features), tokenizer.json, export.json.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from gcl.command import parser, run
from gcl.files import atomic_path, sha256_file
from gcl.graphs import chain
from gcl.infer import read_export
from gcl.runtime import open_session

TOLERANCE = 1e-5  # relative error between one graph and the two it was made of


def check_chain(towers: Path, heads: Path, joined: Path, example: np.ndarray) -> None:
    """Raise ValueError if the joined graph differs from tower and head run one after the other."""
    outputs = example
    for path in (towers, heads):
        session = open_session(path, "cpu")
        (outputs,) = session.run(None, {session.get_inputs()[0].name: outputs})
    session = open_session(joined, "cpu")
    (found,) = session.run(None, {session.get_inputs()[0].name: example})
    error = float(np.abs(found - outputs).max() / np.abs(outputs).max())
    if not error <= TOLERANCE:
        raise ValueError(f"{joined.name}: joined and separate graphs differ by {error:.2e}, tolerance {TOLERANCE:g}")


def bundle(towers: Path, heads: Path, output: Path) -> None:
    """Join the towers and the heads of one seed.

    Raises:
        ValueError: the heads were trained on other towers, or the joined graphs disagree.
    """
    about = read_export(heads)
    if about.get("towers") != read_export(towers)["graphs"]:
        raise ValueError(f"{heads} was trained on other towers than {towers}")
    side = about["preprocess"]["size"]
    generator = np.random.default_rng(0)
    examples: dict[str, np.ndarray] = {
        "image": generator.normal(size=(2, 3, side, side)).astype(np.float32),
        "text": generator.integers(1000, 20000, (2, 9)),
    }
    with atomic_path(output) as folder:
        folder.mkdir()
        for modality, example in examples.items():
            name = f"{modality}.onnx"
            chain(towers / name, heads / name, folder / name)
            check_chain(towers / name, heads / name, folder / name, example)
        shutil.copyfile(towers / "tokenizer.json", folder / "tokenizer.json")
        graphs = {p.stem: {"file": p.name, "sha256": sha256_file(p)} for p in sorted(folder.glob("*.onnx"))}
        about |= {"kind": "all", "takes": "pixels and token ids", "graphs": graphs}
        (folder / "export.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Run from the command line."""
    made = parser(
        "bundle",
        __doc__,
        "--towers results/onnx/clip_lite/towers --heads results/onnx/clip_lite/gcl/seed0 --output model",
    )
    made.add_argument("--towers", required=True, type=Path, help="exported towers")
    made.add_argument("--heads", required=True, type=Path, help="exported heads of one seed")
    made.add_argument("--output", required=True, type=Path, help="folder to write")
    run(made, bundle)


if __name__ == "__main__":
    main()
