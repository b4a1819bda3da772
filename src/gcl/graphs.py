"""ONNX graphs: from torch modules, from stored heads, and one after the other."""

import contextlib
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 20  # the first with Gelu
IR_VERSION = 10
OUTPUT = "features"  # "embedding" would collide with a value name inside text towers


def export_module(module: "nn.Module", example: "Tensor", dynamic: tuple[str, ...], name: str, path: Path) -> None:
    """Trace a torch module of one input to ONNX.

    Args:
        module: In eval mode.
        example: An input of batch 2 or more: at batch 1 the exporter fixes the batch without saying so.
        dynamic: Names of the leading dimensions that stay free.
        name: Of the input.
        path: File to write.

    Raises:
        ValueError: a dimension that should be free came out fixed.
    """
    import torch

    dims = {
        i: torch.export.Dim(n, min=1 if n == "batch" else 2, max=4096 if n == "batch" else 512)
        for i, n in enumerate(dynamic)
    }
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=(dims,),
            input_names=[name],
            output_names=[OUTPUT],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    model = program.model_proto  # type: ignore[union-attr]
    del model.metadata_props[:]
    for node in model.graph.node:  # file names and line numbers of the exporting machine
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    check_free(model, dynamic)
    onnx.save(model, path)


def check_free(model: onnx.ModelProto, dynamic: tuple[str, ...]) -> None:
    """Raise ValueError if a leading dimension of the input or the batch of the output is a number."""
    for value, count in ((model.graph.input[0], len(dynamic)), (model.graph.output[0], 1)):
        for i, dim in enumerate(value.type.tensor_type.shape.dim[:count]):
            if not dim.dim_param:
                raise ValueError(f"ONNX export fixed dimension {i} of '{value.name}' at {dim.dim_value}")


def head_graph(first: np.ndarray, bias: np.ndarray | None, second: np.ndarray, path: Path) -> None:
    """Write a head: Gemm, exact GELU, Gemm on features (batch, F), from weights in torch's (out, in) layout."""
    names = ["x", "first", *(["bias"] if bias is not None else [])]
    weights = {"first": first, "second": second} | ({"bias": bias} if bias is not None else {})
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", names, ["hidden"], "head_first", transB=1),
            helper.make_node("Gelu", ["hidden"], ["active"], "head_gelu", approximate="none"),
            helper.make_node("Gemm", ["active", "second"], [OUTPUT], "head_second", transB=1),
        ],
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", first.shape[1]])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", second.shape[0]])],
        [numpy_helper.from_array(np.ascontiguousarray(v, np.float32), k) for k, v in sorted(weights.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def chain(first: Path, second: Path, path: Path) -> None:
    """Write the graph that feeds the output of one graph into the other."""
    a, b = onnx.load(first), onnx.load(second)
    a.ir_version = b.ir_version = IR_VERSION
    merged = onnx.compose.merge_models(
        onnx.compose.add_prefix(a, "tower_", rename_inputs=False),
        onnx.compose.add_prefix(b, "head_"),
        io_map=[(f"tower_{OUTPUT}", f"head_{b.graph.input[0].name}")],
    )
    merged.graph.output[0].name = OUTPUT
    for node in merged.graph.node:
        node.output[:] = [OUTPUT if o == f"head_{OUTPUT}" else o for o in node.output]
    onnx.checker.check_model(merged)
    onnx.save(merged, path)
