"""ONNX graphs from torch modules and from stored heads."""

import contextlib
import io
import warnings
from collections.abc import Sequence
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


def combined_graph(
    heads: Sequence[tuple[np.ndarray, np.ndarray | None, np.ndarray]],
    means: tuple[np.ndarray, np.ndarray],
    private: float,
    zeros: tuple[int, int],
    path: Path,
) -> None:
    """Write heads of several seeds as one vector with private features, as gcl.train.combined has it.

    Args:
        heads: first, bias and second of each seed, in torch's (out, in) layout.
        means: training means of the heads' unit outputs, (S D,), and of the features, (F,).
        private: weight of the features.
        zeros: how many stand before and behind the private features, the other modality's place.
        path: file to write.
    """
    nodes, weights = [], {"shared_mean": means[0], "private_mean": means[1]}
    for n, (first, bias, second) in enumerate(heads):
        names = ["x", f"first{n}", *([f"bias{n}"] if bias is not None else [])]
        weights |= {f"first{n}": first, f"second{n}": second} | ({f"bias{n}": bias} if bias is not None else {})
        nodes += [
            helper.make_node("Gemm", names, [f"hidden{n}"], f"head{n}_first", transB=1),
            helper.make_node("Gelu", [f"hidden{n}"], [f"active{n}"], f"head{n}_gelu", approximate="none"),
            helper.make_node("Gemm", [f"active{n}", f"second{n}"], [f"raw{n}"], f"head{n}_second", transB=1),
            helper.make_node("LpNormalization", [f"raw{n}"], [f"unit{n}"], f"head{n}_unit", axis=1, p=2),
        ]
    scale = 1 / (1 + private**2) ** 0.5
    weights |= {"shared_weight": np.array(scale), "private_weight": np.array(private * scale)}
    units = [f"unit{n}" for n in range(len(heads))]
    nodes.append(helper.make_node("Concat", units, ["joined"], "join", axis=1))
    nodes += part_nodes("shared", "joined", "shared_part" if private else OUTPUT)
    integers = {}
    if private:
        nodes += part_nodes("private", "x", "private_part")
        integers["pads"] = np.array([0, zeros[0], 0, zeros[1]], np.int64)
        nodes.append(helper.make_node("Pad", ["private_part", "pads"], ["private_place"], "private_pad"))
        nodes.append(helper.make_node("Concat", ["shared_part", "private_place"], [OUTPUT], "join_parts", axis=1))
    width = len(means[0]) + (len(means[1]) + sum(zeros) if private else 0)
    used = {k: np.asarray(v, np.float32) for k, v in weights.items() if private or not k.startswith("private")}
    save_graph(nodes, heads[0][0].shape[1], width, used | integers, path)


def part_nodes(name: str, source: str, output: str) -> list[onnx.NodeProto]:
    """Return what takes the mean off, makes unit, and weighs."""
    return [
        helper.make_node("Sub", [source, f"{name}_mean"], [f"{name}_centered"], f"{name}_center"),
        helper.make_node("LpNormalization", [f"{name}_centered"], [f"{name}_unit"], f"{name}_unit", axis=1, p=2),
        helper.make_node("Mul", [f"{name}_unit", f"{name}_weight"], [output], f"{name}_weigh"),
    ]


def head_graph(first: np.ndarray, bias: np.ndarray | None, second: np.ndarray, path: Path) -> None:
    """Write a head: Gemm, exact GELU, Gemm on features (batch, F), from weights in torch's (out, in) layout."""
    names = ["x", "first", *(["bias"] if bias is not None else [])]
    weights = {"first": first, "second": second} | ({"bias": bias} if bias is not None else {})
    nodes = [
        helper.make_node("Gemm", names, ["hidden"], "head_first", transB=1),
        helper.make_node("Gelu", ["hidden"], ["active"], "head_gelu", approximate="none"),
        helper.make_node("Gemm", ["active", "second"], [OUTPUT], "head_second", transB=1),
    ]
    save_graph(nodes, first.shape[1], second.shape[0], {k: np.asarray(v, np.float32) for k, v in weights.items()}, path)


def save_graph(
    nodes: list[onnx.NodeProto], features: int, width: int, weights: dict[str, np.ndarray], path: Path
) -> None:
    """Write a graph of one input, features (batch, F), and one output (batch, D)."""
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in sorted(weights.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    onnx.save(model, path)
