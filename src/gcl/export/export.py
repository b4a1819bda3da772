"""Export to ONNX, and refuse what disagrees with torch.

What is exported: `towers`, the frozen towers of a backbone; `heads`, the heads of a checkpoint trained
on them; `all`, the whole encoders of a checkpoint whose every weight was trained.
In:  the backbone's weights, or checkpoints (seed0/, seed1/, ...).
Out: a folder per model with image.onnx, text.onnx, image_text.onnx where fusion is native, tokenizer.json,
     and export.json: preprocessing, texts, fusion, GELU kind, hashes and parity with torch.
     Inference needs nothing but the folder.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from gcl.common.arrays import MODALITIES
from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, sha256_file, write_json
from gcl.common.rows import from_json, parse, to_json
from gcl.config.backbones import Backbone
from gcl.config.recipes import Combine
from gcl.export.graphs import export_module, head_graph, trace_head
from gcl.infer.encoder import run_batches
from gcl.infer.model_folder import read_export
from gcl.infer.session import open_session
from gcl.models import Built, Graph, family
from gcl.models.tokenizers import context_of
from gcl.models.weights.checkpoints import read_about, read_start

TOLERANCE = 1e-4  # largest 1 - cosine and largest relative error between torch and ONNX


def compare(expected: np.ndarray, actual: np.ndarray, what: str) -> dict[str, float]:
    """Measure the difference of (n, D) outputs.

    Raises:
        UserError: NaN, or an error above TOLERANCE.
    """
    if not np.isfinite(actual).all():
        raise UserError(f"{what}: ONNX outputs hold NaN or infinity")
    error = float(np.abs(expected - actual).max() / np.abs(expected).max())
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(actual, axis=1)
    cosine = float((1 - (expected * actual).sum(1) / norms).max())
    if max(error, cosine) > TOLERANCE:
        raise UserError(
            f"{what}: ONNX and torch disagree: relative error {error:.2e}, 1 - cosine {cosine:.2e}, "
            f"tolerance {TOLERANCE:g}; is the graph the one of these weights?"
        )
    return {"relative_error": error, "one_minus_cosine": cosine}


def write_export(folder: Path, kind: str, name: str, backbone: Backbone, more: dict[str, Any]) -> None:
    """Write export.json: all that inference needs to know besides the graphs and the tokenizer."""
    about: dict[str, Any] = {
        "backbone": name,
        "kind": kind,
        "takes": "features" if kind == "heads" else "pixels and token ids",
        "fusion": backbone.fusion,
        **({"late": backbone.late} if backbone.late > 1 else {}),
        "dtype": "float32",
        "graphs": {p.stem: {"file": p.name, "sha256": sha256_file(p)} for p in sorted(folder.glob("*.onnx"))},
    }
    if (folder / "tokenizer.json").exists():
        about["tokenizer"] = {"file": "tokenizer.json", "sha256": sha256_file(folder / "tokenizer.json")}
    write_json(folder / "export.json", about | more)


def settings(built: Built) -> dict[str, Any]:
    """Return what export.json says of the inputs: preprocessing, texts, GELU kind."""
    return {
        "preprocess": json.loads(to_json(built.preprocess)),
        "context": context_of(built.tokenizer),
        "clean": built.clean,
    } | built.about


def export_graphs(folder: Path, graphs: dict[str, Graph], built: Built) -> dict[str, Any]:
    """Trace every graph, write the tokenizer, and compare with torch on the example, one row, and fewer tokens."""
    import torch

    built.tokenizer.save(str(folder / "tokenizer.json"))
    parity: dict[str, Any] = {"tolerance": TOLERANCE}
    for name, graph in graphs.items():
        path = folder / f"{name}.onnx"
        export_module(graph, path)
        session = open_session(path, "cpu")
        whole = graph.inputs
        batches = [whole, {k: v[:1] for k, v in whole.items()}]
        if "tokens" in graph.free.get("ids", ()):
            batches.append({k: v[:, :7] if k == "ids" else v for k, v in whole.items()})
        for batch in batches:
            with torch.inference_mode():
                returned = graph.module(*batch.values())
            expected = returned if isinstance(returned, torch.Tensor) else returned[0]
            output = session.run(None, {k: v.numpy() for k, v in batch.items()})[0]
            parity[name] = compare(expected.numpy(), output, f"{path.name} batch {len(output)}")
    return parity


def export_towers(name: str, backbone: Backbone, data: Path, output: Path) -> None:
    """Export a backbone's pretrained towers without heads."""
    built = family(backbone.family).build(backbone, data)
    towers = family(backbone.family).towers
    if towers is None:
        raise UserError(f"family {backbone.family} has no heads, so its recipes train whole models")
    with atomic_path(output) as folder:
        folder.mkdir()
        parity = export_graphs(folder, towers(built), built)
        write_export(folder, "towers", name, backbone, {"parity": parity, **settings(built)})


def write_head(
    backbone: Backbone, about: dict[str, Any], state: dict[str, Any], modality: str, features: np.ndarray, path: Path
) -> None:
    """Write the graph of a modality's head, of what `combine` made of heads, or of the cell in their place."""
    kind = family(backbone.family)
    if kind.cell is not None:
        import torch

        from gcl.train.heads.recurrent import OfModality, stored_cell

        widths = (sum(backbone.model_cfg["layers"][side]) for side in ("image", "text"))
        stored = stored_cell(kind.cell(backbone, *widths), {k: torch.from_numpy(v) for k, v in state.items()})
        trace_head(OfModality(stored, modality), torch.from_numpy(features[:3].copy()), path)
        return
    keys = (kind.heads or {})[modality]
    if combined := about["recipe"].get("combine"):
        from gcl.export.combined_graph import combined_graph

        combined_graph(state, modality, keys, parse(Combine, combined, f"{path.parent}: combine"), path)
    else:
        head_graph(state[keys.first], state[keys.bias] if keys.bias else None, state[keys.second], path)


def export_heads(name: str, backbone: Backbone, checkpoint: Path, towers: Path, folder: Path) -> None:
    """Export the heads of one seed."""
    from safetensors.numpy import load_file

    about = read_about(checkpoint, name)
    state = load_file(checkpoint / about["weights"])
    sample = np.load(checkpoint / "parity.npz")
    folder.mkdir()
    parity: dict[str, Any] = {"tolerance": TOLERANCE}
    for modality in MODALITIES if family(backbone.family).cell else (family(backbone.family).heads or {}):
        path = folder / f"{modality}.onnx"
        write_head(backbone, about, state, modality, sample[f"{modality}_features"], path)
        session = open_session(path, "cpu", 1)
        output = run_batches(session, sample[f"{modality}_features"])
        parity[modality] = compare(sample[f"{modality}_outputs"], output, str(path.name))
    of_towers = read_export(towers)
    kept = {
        k: of_towers[k] for k in ("preprocess", "context", "clean", "activation", "fused_context") if k in of_towers
    }
    more = {"seed": about["seed"], "towers": of_towers["graphs"], "parity": parity}
    write_export(folder, "heads", name, backbone, kept | more)


def export_all(name: str, backbone: Backbone, checkpoint: Path, data: Path, folder: Path) -> None:
    """Export the encoders of one whole model."""
    about = read_about(checkpoint, name)
    if describe := family(backbone.family).as_it_is:
        folder.mkdir()
        write_export(folder, "all", name, backbone, {"encoder": describe(backbone), "seed": about["seed"]})
        return
    built = family(backbone.family).build(backbone, data)
    read_start(built.model, checkpoint, name)
    folder.mkdir()
    more = {"parity": export_graphs(folder, built.graphs(), built), "seed": about["seed"], **settings(built)}
    write_export(folder, "all", name, backbone, more)


def export(
    kind: str,
    name: str,
    backbone: Backbone,
    data: Path,
    checkpoints: Path | None,
    towers: Path | None,
    output: Path,
) -> None:
    """Export towers, or every seed of the checkpoints.

    Raises:
        UserError: an input is missing or another backbone's, or parity fails.
    """
    needed = {"towers": (), "heads": ("checkpoints", "towers"), "all": ("checkpoints",)}
    paths = {"checkpoints": checkpoints, "towers": towers}
    if missing := [f"--{n}" for n in needed[kind] if paths[n] is None]:
        raise UserError(f"exporting {kind} needs {', '.join(missing)}")
    if kind == "towers":
        export_towers(name, backbone, data, output)
        return
    with atomic_path(output) as folder:
        folder.mkdir()
        for seed in sorted(p for p in checkpoints.iterdir() if p.is_dir()):  # type: ignore[union-attr]
            if kind == "heads":
                export_heads(name, backbone, seed, towers, folder / seed.name)  # type: ignore[arg-type]
            else:
                export_all(name, backbone, seed, data, folder / seed.name)  # type: ignore[arg-type]


def main() -> None:
    """Run from the command line."""
    options = parser(
        "export", __doc__, "--kind towers --name clip_lite --backbone '{...}' --output results/onnx/clip_lite/towers"
    )
    options.add_argument("--kind", required=True, choices=["towers", "heads", "all"])
    options.add_argument("--name", required=True, help="row of config/backbones.yaml")
    options.add_argument("--backbone", required=True, type=from_json(Backbone), help="that row as JSON")
    options.add_argument("--data", type=Path, default=Path("data"), help="folder of fetched data sets")
    options.add_argument("--checkpoints", type=Path, help="what `train` wrote")
    options.add_argument("--towers", type=Path, help="for heads: the exported towers")
    options.add_argument("--output", required=True, type=Path, help="folder to write")
    run(options, export)
