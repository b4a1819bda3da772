"""ONNX graphs from torch modules and from stored heads."""

import contextlib
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gcl.common.errors import UserError
from gcl.models.base import Graph

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 20  # the first with Gelu
IR_VERSION = 10
MORE_OUTPUTS = ["image_tokens"]  # of an image graph whose fusion is native
OUTPUT = "features"  # "embedding" would collide with a value name inside text towers


def export_module(graph: Graph, path: Path) -> None:
    """Trace a torch module in eval mode to ONNX; its first output is named features, others as MORE_OUTPUTS says.

    The example's batch must be 2 or more: at batch 1 the exporter fixes the batch without saying so.

    Raises:
        UserError: a dimension that should be free came out fixed.
    """
    import torch

    names = {name for free in graph.free.values() for name in free} - {"batch"}
    dims = {name: torch.export.Dim(name, min=2, max=graph.longest) for name in sorted(names)}
    dims["batch"] = torch.export.Dim("batch", max=4096)
    for part in graph.module.modules():
        if getattr(part, "inplace", False):  # traced in place, an activation takes twice as long to export
            part.inplace = False
    shapes = tuple({i: dims[name] for i, name in enumerate(free)} for free in graph.free.values())
    with torch.inference_mode():
        is_single = isinstance(graph.module(*graph.inputs.values()), torch.Tensor)
    outputs = [OUTPUT] if is_single else [OUTPUT, *MORE_OUTPUTS]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(graph.inputs),
            output_names=outputs,
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
    check_free(model, {name: len(names) for name, names in graph.free.items()})
    onnx.save(model, path)


def trace_head(module: "nn.Module", features: "Tensor", path: Path) -> None:
    """Write a module of features (batch, F) to (batch, D) by torch's older exporter, in a twentieth of the time.

    That one fixes what depends on the batch without saying so: compare with torch on other rows than `features`.
    """
    import torch

    free = {name: {0: "batch"} for name in ("x", OUTPUT)}
    names: dict[str, Any] = {"input_names": ["x"], "output_names": [OUTPUT], "dynamic_axes": free}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (features,), path, dynamo=False, opset_version=OPSET, **names)


def check_free(model: onnx.ModelProto, free: dict[str, int]) -> None:
    """Raise ValueError if one of the first dimensions of an input, or the batch of an output, is a number."""
    counts = [(value, free[value.name]) for value in model.graph.input] + [(value, 1) for value in model.graph.output]
    for value, count in counts:
        for i, dim in enumerate(value.type.tensor_type.shape.dim[:count]):
            if not dim.dim_param:
                raise UserError(f"ONNX export fixed dimension {i} of '{value.name}' at {dim.dim_value}")


def head_nodes(
    first: np.ndarray, bias: np.ndarray | None, second: np.ndarray, prefix: str = "", output: str = "output"
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Return Gemm, exact GELU, Gemm from `x` to the prefixed output, and their weights in torch's (out, in) layout."""
    inputs = ["x", f"{prefix}first", *([f"{prefix}bias"] if bias is not None else [])]
    weights = {f"{prefix}first": first, f"{prefix}second": second}
    weights |= {} if bias is None else {f"{prefix}bias": bias}
    weights = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    nodes = [
        helper.make_node("Gemm", inputs, [f"{prefix}hidden"], f"{prefix}head_first", transB=1),
        helper.make_node("Gelu", [f"{prefix}hidden"], [f"{prefix}active"], f"{prefix}head_gelu", approximate="none"),
        helper.make_node(
            "Gemm", [f"{prefix}active", f"{prefix}second"], [f"{prefix}{output}"], f"{prefix}head_second", transB=1
        ),
    ]
    return nodes, weights


def head_graph(first: np.ndarray, bias: np.ndarray | None, second: np.ndarray, path: Path) -> None:
    """Write a head on features (batch, F), from weights in torch's (out, in) layout."""
    nodes, weights = head_nodes(first, bias, second, output=OUTPUT)
    save_graph(nodes, first.shape[1], second.shape[0], weights, path)


def save_graph(
    nodes: list[onnx.NodeProto], features: int, width: int, weights: dict[str, np.ndarray], path: Path
) -> None:
    """Write a graph of one input, features (batch, F), and one output (batch, D)."""
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(np.asarray(v, order="C"), k) for k, v in sorted(weights.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    onnx.save(model, path)
