"""Make smaller variants of an exported model, and measure on a benchmark what they cost.

fp16   weights and arithmetic in half precision, LayerNormalization in single: for GPUs; on a CPU it saves disk only
int8   transformers' matrix products in 8 bits, weights per channel, activations as they come: for CPUs; convolutions,
       heads and the last projection stay
In:    an exported whole model (`bundle`, or `export` of a fully trained one), a prepared benchmark.
Out:   <output>/{fp32,fp16,int8}/, each a model folder; variants.csv and variants.md with size, distance of the
       vectors and the measure against fp32.
"""

import csv
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, sha256_file, write_json
from gcl.common.markup import markdown
from gcl.common.names import lookup
from gcl.data.prepared import read_benchmark
from gcl.infer.model_folder import read_export
from gcl.infer.store import read_outputs
from gcl.retrieve.retrieve import retrieve
from gcl.score.score import score
from gcl.score.statistics import averages, pools_of, read_result, summarise, weighted_results

COLUMNS = ("variant", "megabytes", "largest_1_minus_cosine", "pool", "measure", "value", "difference_to_fp32")


def copy(source: Path, target: Path) -> None:
    """Keep a graph as it is."""
    shutil.copyfile(source, target)


def to_fp16(source: Path, target: Path) -> None:
    """Convert to half precision but for LayerNormalization and the graph's inputs and outputs.

    onnxruntime's CPU kernels break on half-precision LayerNormalization, and a GPU's lose accuracy in it.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    blocked = [*DEFAULT_OP_BLOCK_LIST, "LayerNormalization"]
    model = convert_float_to_float16(onnx.load(source), keep_io_types=True, op_block_list=blocked)
    onnx.save(model, target)


def last_products(model: onnx.ModelProto) -> list[str]:
    """Name the matrix products whose result is the output: no later layer could even out their rounding."""
    made = {output: node for node in model.graph.node for output in node.output}
    found, open_values = [], [value.name for value in model.graph.output]
    while open_values:
        node = made.get(open_values.pop())
        if node is None:
            continue
        if node.op_type in ("MatMul", "Gemm"):
            found.append(node.name)
        elif node.op_type in ("Add", "Identity"):
            open_values += node.input
    return found


def to_int8(source: Path, target: Path) -> None:
    """Quantise the weights of the transformers' matrix products per channel; activations at run time, per tensor.

    Products of pooled vectors (Gemm: heads) stay: their inputs' scales differ by orders of magnitude, and one
    scale for all of them loses most (LOG.md).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    heads = [node.name for node in model.graph.node if node.op_type == "Gemm"]
    # The quantiser splits Gemm into MatMul and Add before it looks at what to leave alone.
    kept = [*last_products(model), *heads, *(f"{name}_MatMul" for name in heads)]
    del model.graph.value_info[:]  # the exporter's shapes contradict those of transposed weights
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "plain.onnx"
        onnx.save(model, plain)
        quantize_dynamic(
            plain,
            target,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=kept,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


MAKERS: dict[str, Callable[[Path, Path], None]] = {"fp32": copy, "fp16": to_fp16, "int8": to_int8}
DTYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}


def make(model: Path, variant: str, folder: Path) -> None:
    """Write one variant as a model folder of its own."""
    about = read_export(model)
    if about["kind"] != "all":
        raise UserError(f"{model} holds {about['kind']} only; join it with `gcl bundle` first")
    folder.mkdir()
    for graph in about["graphs"].values():
        lookup(MAKERS, variant, "variant", "src/gcl/score/variants.py")(model / graph["file"], folder / graph["file"])
        graph["sha256"] = sha256_file(folder / graph["file"])
    shutil.copyfile(model / "tokenizer.json", folder / "tokenizer.json")
    if (model / "calibration.json").exists():
        shutil.copyfile(model / "calibration.json", folder / "calibration.json")
    about["dtype"] = DTYPES[variant]
    write_json(folder / "export.json", about)


def embed(model: Path, prepared: Path, device: str, output: Path) -> None:
    """Embed in a process of its own: a runtime that crashes on a graph must not take the comparison with it."""
    command = [sys.executable, "-m", "gcl.infer", "--onnx", str(model), "--prepared", str(prepared)]
    done = subprocess.run([*command, "--device", device, "--output", str(output)], capture_output=True, text=True)
    if done.returncode:
        what = f"died of signal {-done.returncode}" if done.returncode < 0 else done.stderr.strip().splitlines()[-1]
        raise UserError(f"{model} can't be run: {what}")


def distance(embeddings: Path, reference: Path) -> float:
    """Return the largest 1 - cosine of any vector."""
    worst = 0.0
    for a, b in zip(read_outputs([embeddings]), read_outputs([reference]), strict=True):
        if a is not None and b is not None:
            x, y = a[:], b[:]
            cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
            worst = max(worst, float(1 - cosine.min()))
    return worst


def measured(model: Path, prepared: Path, embeddings: Path, measure: str, folder: Path) -> dict[str, float]:
    """Return the mean of the tasks by pool, in percent."""
    bench = read_benchmark(prepared)
    retrieve(prepared, [embeddings], None, model, None, ["none"], 100, "cpu", None, folder / "run.parquet")
    score(folder / "run.parquet", prepared, "x", "x", "x", [measure], 10, folder / "scores")
    result = read_result(folder / "scores", "x", "x", {task.name: measure for task in bench.tasks})
    return {
        pool: summarise(weighted_results(result, averages(bench.tasks, pool)["mean"], pool, "none"), 10).mean
        for pool in pools_of(bench.tasks)
    }


def variants(onnx: Path, prepared: Path, kinds: list[str], measure: str, device: str, output: Path) -> None:
    """Make the variants and compare them.

    Raises:
        UserError: the model isn't whole, or a variant can't be run.
    """
    lines: list[dict[str, Any]] = []
    with atomic_path(output) as folder, tempfile.TemporaryDirectory() as scratch:
        folder.mkdir()
        exact: dict[str, float] = {}
        for variant in ["fp32", *(k for k in kinds if k != "fp32")]:
            work = Path(scratch) / variant
            work.mkdir()
            make(onnx, variant, folder / variant)
            embed(folder / variant, prepared, device, work / "embeddings")
            far = distance(work / "embeddings", Path(scratch) / "fp32/embeddings")
            found = measured(folder / variant, prepared, work / "embeddings", measure, work)
            exact = exact or found
            size = sum(p.stat().st_size for p in (folder / variant).glob("*.onnx")) / 1e6
            for pool, value in found.items():
                numbers = (f"{size:.1f}", f"{far:.1e}", pool, measure, f"{value:.2f}", f"{value - exact[pool]:+.2f}")
                lines.append(dict(zip(COLUMNS, (variant, *numbers), strict=True)))
        with (folder / "variants.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
        text = markdown([c.replace("_", " ") for c in COLUMNS], [list(line.values()) for line in lines])
        (folder / "variants.md").write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    """Run from the command line."""
    options = parser("variants", __doc__, "--onnx model --prepared results/prepared/clipart9 --output variants")
    options.add_argument("--onnx", required=True, type=Path, help="exported whole model")
    options.add_argument("--prepared", required=True, type=Path, help="benchmark to measure on")
    options.add_argument("--kinds", nargs="+", default=["fp16", "int8"], choices=list(MAKERS), help="(fp16 int8)")
    options.add_argument("--measure", default="Success@10", help="a measure of ir_measures (Success@10)")
    options.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    options.add_argument("--output", required=True, type=Path, help="folder to write")
    run(options, variants)


if __name__ == "__main__":
    main()
