"""Export to ONNX, and refuse what disagrees with torch.

What is exported: `towers`, the frozen towers of a backbone; `heads`, the heads of a checkpoint trained
on them; `all`, the whole encoders of a checkpoint whose every weight was trained.
In:  the backbone's weights, or checkpoints (seed0/, seed1/, ...).
Out: a folder per model with image.onnx, text.onnx, the tokenizer where texts go in, and export.json:
     preprocessing, fusion, hashes, parity with torch, and the statistics of calibration.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from gcl import calibrate
from gcl.backbones.timm_hf import HEAD_KEYS
from gcl.checkpoints import read_about, read_checkpoint
from gcl.command import parser, run
from gcl.config import Backbone, from_json, to_json
from gcl.files import atomic_path, sha256_file
from gcl.graphs import export_module, head_graph
from gcl.infer import embed_images, embed_texts, run_batches
from gcl.records import read_pairs
from gcl.registry import lookup
from gcl.runtime import open_session

TOLERANCE = 1e-4  # largest 1 - cosine and largest relative error between torch and ONNX


def compare(expected: np.ndarray, found: np.ndarray, what: str) -> dict[str, float]:
    """Measure the difference of (n, D) outputs.

    Raises:
        ValueError: NaN, or an error above TOLERANCE.
    """
    if not np.isfinite(found).all():
        raise ValueError(f"{what}: ONNX outputs hold NaN or infinity")
    error = float(np.abs(expected - found).max() / np.abs(expected).max())
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    cosine = float((1 - (expected * found).sum(1) / norms).max())
    if max(error, cosine) > TOLERANCE:
        raise ValueError(
            f"{what}: ONNX and torch disagree: relative error {error:.2e}, 1 - cosine {cosine:.2e}, "
            f"tolerance {TOLERANCE:g}; is the graph the one of these weights?"
        )
    return {"relative_error": error, "one_minus_cosine": cosine}


def describe(folder: Path, kind: str, name: str, backbone: Backbone, parity: dict[str, Any], **more: Any) -> None:
    """Write export.json."""
    about = {
        "backbone": name,
        "kind": kind,
        "takes": "features" if kind == "heads" else "pixels and token ids",
        "fusion": backbone.fusion,
        "preprocess": json.loads(to_json(backbone.preprocess)),
        "context": backbone.context,
        "graphs": {p.stem: {"file": p.name, "sha256": sha256_file(p)} for p in sorted(folder.glob("*.onnx"))},
        "parity": parity | {"tolerance": TOLERANCE},
    }
    text = json.dumps(about | more, indent=2, sort_keys=True, allow_nan=False)
    (folder / "export.json").write_text(text + "\n")


def export_modules(folder: Path, modules: dict[str, Any], backbone: Backbone, data: Path) -> dict[str, Any]:
    """Trace both modules, copy the tokenizer, and compare at batch sizes 1 and 3."""
    import torch

    generator = torch.Generator().manual_seed(0)
    side = backbone.preprocess.size
    inputs = {
        "image": torch.randn(3, 3, side, side, generator=generator),
        "text": torch.randint(1000, 20000, (3, 9), generator=generator),
    }
    inputs["text"][1:, 5:] = 0  # padded rows
    shutil.copyfile(data / backbone.tokenizer, folder / "tokenizer.json")
    parity: dict[str, Any] = {}
    for modality, names, input_name in (("image", ("batch",), "pixels"), ("text", ("batch", "tokens"), "ids")):
        path = folder / f"{modality}.onnx"
        export_module(modules[modality], inputs[modality], names, input_name, path)
        session = open_session(path, "cpu")
        with torch.inference_mode():
            for batch in (
                inputs[modality],
                inputs[modality][:1],
                inputs[modality][:, :7] if modality == "text" else inputs[modality],
            ):
                expected = modules[modality](batch).numpy()
                (found,) = session.run(None, {input_name: batch.numpy()})
                parity[modality] = compare(expected, found, f"{path.name} batch {len(batch)}")
    return parity


def export_towers(name: str, backbone: Backbone, data: Path, output: Path) -> None:
    """Export a backbone's pretrained towers without heads."""
    from gcl.backbones import FAMILIES

    family = lookup(FAMILIES, backbone.family, "backbone family", "src/gcl/backbones/__init__.py")
    with atomic_path(output) as folder:
        folder.mkdir()
        parity = export_modules(folder, family.towers(family.build(backbone, data)), backbone, data)
        describe(folder, "towers", name, backbone, parity)


def export_heads(
    name: str, backbone: Backbone, checkpoint: Path, towers: Path, features: Path, pairs: Path, folder: Path
) -> None:
    """Export the heads of one seed and fit the calibration on the training pairs."""
    from safetensors.numpy import load_file

    about = read_about(checkpoint, name)
    state = load_file(checkpoint / about["weights"])
    sample = np.load(checkpoint / "parity.npz")
    folder.mkdir()
    parity, outputs = {}, {}
    for modality, keys in HEAD_KEYS.items():
        path = folder / f"{modality}.onnx"
        head_graph(state[keys.first], state[keys.bias] if keys.bias else None, state[keys.second], path)
        session = open_session(path, "cpu", 1)
        found = run_batches(session, sample[f"{modality}_features"])
        parity[modality] = compare(sample[f"{modality}_outputs"], found, str(path.name))
        outputs[modality] = run_batches(session, np.load(features / f"{modality}.npy"))
    stats = fit(outputs, pairs, backbone.fusion)
    graphs = json.loads((towers / "export.json").read_text())["graphs"]
    describe(folder, "heads", name, backbone, parity, seed=about["seed"], towers=graphs, calibration=stats._asdict())


def fit(outputs: dict[str, np.ndarray], pairs: Path, fusion: str) -> calibrate.Calibration:
    """Fit the calibration on each pair's image and full caption."""
    prepared = read_pairs(pairs)
    full = np.array([rows[0] for rows in prepared.text_rows])
    return calibrate.fit(outputs["image"][prepared.image_rows], outputs["text"][full], fusion)


def export_all(name: str, backbone: Backbone, checkpoint: Path, data: Path, pairs: Path, folder: Path) -> None:
    """Export the encoders of one fully trained seed; its calibration is fitted on the training pairs."""
    from gcl.backbones import FAMILIES

    about = read_about(checkpoint, name)
    family = lookup(FAMILIES, backbone.family, "backbone family", "src/gcl/backbones/__init__.py")
    model = family.build(backbone, data)
    model.load_state_dict(read_checkpoint(checkpoint, name))
    folder.mkdir()
    parity = export_modules(folder, family.encoders(model.eval()), backbone, data)
    describe(folder, "all", name, backbone, parity)
    outputs = {"image": embed_images(folder, pairs, "auto", 0), "text": embed_texts(folder, pairs, "auto", 0)}
    stats = fit(outputs, pairs, backbone.fusion)
    describe(folder, "all", name, backbone, parity, seed=about["seed"], calibration=stats._asdict())


def export(
    kind: str,
    name: str,
    backbone: Backbone,
    data: Path,
    checkpoints: Path | None,
    towers: Path | None,
    features: Path | None,
    pairs: Path | None,
    output: Path,
) -> None:
    """Export towers, or every seed of the checkpoints.

    Raises:
        ValueError: an input is missing or another backbone's, or parity fails.
    """
    needed = {"towers": (), "heads": ("checkpoints", "towers", "features", "pairs"), "all": ("checkpoints", "pairs")}
    paths = {"checkpoints": checkpoints, "towers": towers, "features": features, "pairs": pairs}
    if missing := [f"--{n}" for n in needed[kind] if paths[n] is None]:
        raise ValueError(f"exporting {kind} needs {', '.join(missing)}")
    if kind == "towers":
        export_towers(name, backbone, data, output)
        return
    with atomic_path(output) as folder:
        folder.mkdir()
        for seed in sorted(p for p in checkpoints.iterdir() if p.is_dir()):  # type: ignore[union-attr]
            if kind == "heads":
                export_heads(name, backbone, seed, towers, features, pairs, folder / seed.name)  # type: ignore[arg-type]
            else:
                export_all(name, backbone, seed, data, pairs, folder / seed.name)  # type: ignore[arg-type]


def main() -> None:
    """Run from the command line."""
    made = parser(
        "export", __doc__, "--kind towers --name clip_lite --backbone '{...}' --output results/onnx/clip_lite/towers"
    )
    made.add_argument("--kind", required=True, choices=["towers", "heads", "all"])
    made.add_argument("--name", required=True, help="row of config/backbones.yaml")
    made.add_argument("--backbone", required=True, type=from_json(Backbone), help="that row as JSON")
    made.add_argument("--data", type=Path, default=Path("data"), help="folder of fetched data sets")
    made.add_argument("--checkpoints", type=Path, help="what `train` wrote")
    made.add_argument("--towers", type=Path, help="for heads: the exported towers")
    made.add_argument("--features", type=Path, help="for heads: the towers' outputs for the training pairs")
    made.add_argument("--pairs", type=Path, help="prepared training pairs, on which calibration is fitted")
    made.add_argument("--output", required=True, type=Path, help="folder to write")
    run(made, export)


if __name__ == "__main__":
    main()
