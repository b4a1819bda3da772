"""Smaller and faster variants of exported graphs, each a model folder of its own.

fp16         half precision, but for LayerNormalization: for GPUs; on a CPU it saves disk only
int8         transformers' matrix products in 8 bits, a scale for each channel of weights, one for all activations
int8_blocks  the same products with a scale for every 128 numbers of weights and of activations: slower, and nearer
Convolutions, heads and the last projection stay as they are in both.
"""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import onnx

from gcl.common.errors import UserError
from gcl.common.files import sha256_file, write_json
from gcl.common.names import lookup
from gcl.infer.model_folder import About, read_export

BLOCK = 128  # numbers of int8_blocks with a scale


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
    producers = {output: node for node in model.graph.node for output in node.output}
    products, open_values = [], [value.name for value in model.graph.output]
    while open_values:
        node = producers.get(open_values.pop())
        if node is None:
            continue
        if node.op_type in ("MatMul", "Gemm"):
            products.append(node.name)
        elif node.op_type in ("Add", "Identity"):
            open_values += node.input
    return products


def to_quantise(source: Path) -> onnx.ModelProto:
    """Read a graph without its shapes, since the exporter's contradict those of transposed weights."""
    model = onnx.load(source)
    del model.graph.value_info[:]
    return model


def to_int8(source: Path, target: Path) -> None:
    """Quantise the weights of the transformers' matrix products per channel; activations at run time, per tensor.

    Products of pooled vectors (Gemm: heads) stay: their inputs' scales differ by orders of magnitude, and one
    scale for all of them loses most (LOG.md).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = to_quantise(source)
    heads = [node.name for node in model.graph.node if node.op_type == "Gemm"]
    # The quantiser splits Gemm into MatMul and Add before it looks at what to leave alone.
    kept = [*last_products(model), *heads, *(f"{name}_MatMul" for name in heads)]
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


def to_int8_blocks(source: Path, target: Path) -> None:
    """Quantise the same products in blocks of BLOCK numbers, weights now and activations at run time."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = to_quantise(source)
    in_8_bits = 4  # the level of accuracy at which activations too are products' operands in 8 bits
    quantiser = MatMulNBitsQuantizer(
        model,
        bits=8,
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=in_8_bits,
        nodes_to_exclude=last_products(model),
    )
    quantiser.process()
    onnx.save(quantiser.model.model, target)


class Kind(NamedTuple):
    """A kind of variant."""

    write: Callable[[Path, Path], None]  # a graph's
    dtype: str  # of most of its weights


VARIANTS = {
    "fp32": Kind(copy, "float32"),
    "fp16": Kind(to_fp16, "float16"),
    "int8": Kind(to_int8, "int8"),
    "int8_blocks": Kind(to_int8_blocks, "int8"),
}


@contextmanager
def without_advice() -> Iterator[None]:
    """Keep the quantisers' thousands of lines about what they leave alone, and their advice, from the log."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def read_whole(model: Path) -> About:
    """Read what a whole model says of itself.

    Raises:
        UserError: it is none.
    """
    about = read_export(model)
    if about["kind"] != "all":
        raise UserError(f"{model} holds {about['kind']} only; join it with `gcl bundle` first")
    return about


def make(model: Path, variant: str, folder: Path) -> None:
    """Write one variant as a model folder of its own.

    Raises:
        UserError: the model is not a whole one, or there is no such variant.
    """
    about = read_whole(model)
    kind = lookup(VARIANTS, variant, "variant", "src/gcl/export/smaller.py")
    folder.mkdir()
    for graph in about["graphs"].values():
        with without_advice():
            kind.write(model / graph["file"], folder / graph["file"])
        graph["sha256"] = sha256_file(folder / graph["file"])
    shutil.copyfile(model / "tokenizer.json", folder / "tokenizer.json")
    if (model / "calibration.json").exists():
        shutil.copyfile(model / "calibration.json", folder / "calibration.json")
    about["dtype"] = kind.dtype
    write_json(folder / "export.json", about)
