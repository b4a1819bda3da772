"""ONNX graphs from torch modules and from stored heads."""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gcl.common.errors import UserError
from gcl.models.base import Graph

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

    dims = {
        "batch": torch.export.Dim("batch", max=4096),
        "tokens": torch.export.Dim("tokens", min=2, max=graph.longest),
    }
    shapes = tuple({i: dims[n] for i, n in enumerate(names)} for names in graph.free.values())
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


def check_free(model: onnx.ModelProto, free: dict[str, int]) -> None:
    """Raise ValueError if one of the first dimensions of an input, or the batch of an output, is a number."""
    counts = [(value, free[value.name]) for value in model.graph.input] + [(value, 1) for value in model.graph.output]
    for value, count in counts:
        for i, dim in enumerate(value.type.tensor_type.shape.dim[:count]):
            if not dim.dim_param:
                raise UserError(f"ONNX export fixed dimension {i} of '{value.name}' at {dim.dim_value}")


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
