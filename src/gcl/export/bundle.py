"""Join exported towers and heads to whole encoders: all that inference needs, in one folder.

In:  results/onnx/<backbone>/towers and results/onnx/<backbone>/<recipe>/seed<n>.
Out: image.onnx (pixels -> features), text.onnx (token ids -> features), image_text.onnx where fusion is native,
     in_turns.onnx where texts and images are read in turns, tokenizer.json, export.json.
"""

import shutil
from pathlib import Path

import numpy as np
import onnx

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, sha256_file, write_json
from gcl.export.graphs import IR_VERSION, OUTPUT
from gcl.infer.model_folder import read_export
from gcl.infer.session import open_session
from gcl.models.tokenizers import read_tokenizer

TOLERANCE = 1e-5  # relative error between one graph and the two it was made of


def chain(first: Path, second: Path, path: Path) -> None:
    """Write the graph that feeds the features of one graph into the other; further outputs stay."""
    a, b = onnx.load(first), onnx.load(second)
    a.ir_version = b.ir_version = IR_VERSION
    more = [f"tower_{o.name}" for o in a.graph.output if o.name != OUTPUT]
    merged = onnx.compose.merge_models(
        onnx.compose.add_prefix(a, "tower_", rename_inputs=False),
        onnx.compose.add_prefix(b, "head_"),
        io_map=[(f"tower_{OUTPUT}", f"head_{b.graph.input[0].name}")],
        outputs=[f"head_{OUTPUT}", *more],
    )
    names = {f"head_{OUTPUT}": OUTPUT} | {name: name.removeprefix("tower_") for name in more}
    for value in merged.graph.output:
        value.name = names[value.name]
    ordered = sorted(merged.graph.output, key=lambda value: value.name != OUTPUT)  # the features first
    del merged.graph.output[:]
    merged.graph.output.extend(ordered)
    for node in merged.graph.node:
        node.input[:] = [names.get(i, i) for i in node.input]
        node.output[:] = [names.get(o, o) for o in node.output]
    del merged.opset_import[1:]  # the merge names the one opset twice
    onnx.checker.check_model(merged)
    onnx.save(merged, path)


def check_chain(towers: Path, heads: Path, joined: Path, inputs: dict[str, np.ndarray]) -> None:
    """Raise ValueError if the joined graph differs from tower and head run one after the other."""
    (features, *_) = open_session(towers, "cpu").run(None, inputs)
    head = open_session(heads, "cpu")
    (outputs,) = head.run(None, {head.get_inputs()[0].name: features})
    output = open_session(joined, "cpu").run(None, inputs)[0]
    error = float(np.abs(output - outputs).max() / np.abs(outputs).max())
    if not error <= TOLERANCE:
        raise UserError(f"{joined.name}: joined and separate graphs differ by {error:.2e}, tolerance {TOLERANCE:g}")


def examples(towers: Path, side: int) -> dict[str, dict[str, np.ndarray]]:
    """Return inputs of every graph."""
    generator = np.random.default_rng(0)
    pixels = generator.normal(size=(2, 3, side, side)).astype(np.float32)
    words = read_tokenizer(towers / "tokenizer.json").get_vocab_size()
    ids = generator.integers(words // 2, words, (2, 9))
    inputs: dict[str, dict[str, np.ndarray]] = {"image": {"pixels": pixels}, "text": {"ids": ids}}
    _, *tokens = open_session(towers / "image.onnx", "cpu").run(None, {"pixels": pixels})
    if tokens:
        inputs["image_text"] = {"image_tokens": tokens[0], "ids": ids}
    if (towers / "in_turns.onnx").exists():
        places = np.arange(tokens[0].shape[1] + ids.shape[1])
        inputs["in_turns"] = inputs["image_text"] | {"order": np.stack([places, places[::-1]])}
    return inputs


def bundle(towers: Path, heads: Path, calibration: Path | None, output: Path) -> None:
    """Join the towers and the heads of one seed.

    Raises:
        UserError: the heads were trained on other towers, or the joined graphs disagree.
    """
    about = read_export(heads)
    if about.get("towers") != read_export(towers)["graphs"]:
        raise UserError(f"{heads} was trained on other towers than {towers}")
    with atomic_path(output) as folder:
        folder.mkdir()
        for graph, inputs in examples(towers, about["preprocess"]["size"]).items():
            name = f"{graph}.onnx"
            head = heads / ("image_text.onnx" if graph == "in_turns" else name)
            chain(towers / name, head, folder / name)
            check_chain(towers / name, head, folder / name, inputs)
        shutil.copyfile(towers / "tokenizer.json", folder / "tokenizer.json")
        if calibration is not None:
            shutil.copyfile(calibration, folder / "calibration.json")
        graphs = {p.stem: {"file": p.name, "sha256": sha256_file(p)} for p in sorted(folder.glob("*.onnx"))}
        kept = {key: value for key, value in read_export(towers).items() if key in ("tokenizer", "positions")}
        about |= {"kind": "all", "takes": "pixels and token ids", "graphs": graphs, **kept}
        write_json(folder / "export.json", about)


def main() -> None:
    """Run from the command line."""
    options = parser(
        "bundle",
        __doc__,
        "--towers results/onnx/clip_lite/towers --heads results/onnx/clip_lite/cl_t05/seed0"
        " --calibration results/calibrations/clip_lite/cl_t05/seed0.json --output model",
    )
    options.add_argument("--towers", required=True, type=Path, help="exported towers")
    options.add_argument("--heads", required=True, type=Path, help="exported heads of one seed")
    options.add_argument(
        "--calibration", type=Path, help="what `calibrate` wrote for that seed, to keep it beside the model"
    )
    options.add_argument("--output", required=True, type=Path, help="folder to write")
    run(options, bundle)


if __name__ == "__main__":
    main()
