"""The ONNX graph of a combined model: what gcl.train.heads.combined has in torch, with the bank in it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from gcl.config.recipes import Combine
from gcl.export.graphs import OUTPUT, head_nodes, save_graph
from gcl.models.base import Keys
from gcl.train.heads.combined import OTHER, SAME, private_place, seeds_of

Weights = dict[str, np.ndarray]


class Graph:
    """Nodes and weights as they are added; a node is named after its output."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.nodes: list[onnx.NodeProto] = []
        self.weights: Weights = {}

    def add(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        """Add a node, return the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], f"{output}_node", **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add a weight, return its name."""
        self.weights[name] = value
        return name

    def unit(self, source: str, output: str) -> str:
        """Add what makes rows unit."""
        return self.add("LpNormalization", [source], output, axis=1, p=2)

    def scaled(self, source: str, weight: float, output: str) -> str:
        """Add a multiplication by a number."""
        return self.add("Mul", [source, self.constant(f"{output}_weight", np.array(weight, np.float32))], output)

    def centered(self, source: str, mean: np.ndarray, name: str) -> str:
        """Add what takes a mean off and makes unit."""
        return self.unit(
            self.add("Sub", [source, self.constant(f"{name}_mean", mean)], f"{name}_centered"), f"{name}_unit"
        )

    def stored(self, state: Mapping[str, np.ndarray], key: str, name: str) -> str:
        """Add rows as `gcl.train.heads.combined.stored` keeps them, return the name of them as float32."""
        rows = self.constant(name, state[key])
        if state[key].dtype == np.int8:
            scale = self.constant(f"{name}_scale", state[f"{key}_scale"])
            return self.add("DequantizeLinear", [rows, scale], f"{name}_float", axis=0)
        if state[key].dtype == np.float16:
            return self.add("Cast", [rows], f"{name}_float", to=TensorProto.FLOAT)
        return rows


def combined_graph(state: Mapping[str, np.ndarray], modality: str, keys: Keys, how: Combine, path: Path) -> None:
    """Write the graph of a modality, features (batch, F) -> unit vectors (batch, D).

    Args:
        state: what `combine` made, as numpy arrays.
        modality: image, text or image_text.
        keys: of the modality's heads.
        how: weights and sizes.
        path: file to write.
    """
    graph, heads = Graph(), seeds_of(state)
    units: list[str] = []
    for n, own in enumerate(heads):
        nodes, weights = head_nodes(own[keys.first], own[keys.bias] if keys.bias else None, own[keys.second], f"h{n}_")
        graph.nodes += nodes
        graph.weights |= weights
        units.append(graph.unit(f"h{n}_output", f"unit{n}"))
    shared = graph.centered(graph.add("Concat", units, "joined", axis=1), state[f"{modality}.shared"], "shared")
    scale = (1 + 2 * how.expand**2 + how.private**2) ** -0.5
    width = len(state[f"{modality}.shared"])
    other = shared
    if how.expand or how.private or how.textual:
        private = graph.centered("x", state[f"{modality}.private"], "private")
    if modality in OTHER and (how.expand or how.textual):
        other = expansion(graph, state, modality, private, how)
    if modality == "image" and how.textual:
        mixed = [graph.scaled(shared, 1 - how.textual, "own_share"), graph.scaled(other, how.textual, "textual_share")]
        shared = graph.unit(graph.add("Add", mixed, "mixed"), "textual_unit")
    parts = [graph.scaled(shared, scale, "shared_part")]
    if how.expand:
        parts += [
            graph.scaled(other if modality == to else shared, how.expand * scale, f"as_{to}_part") for to in OTHER
        ]
        width *= 3
    if how.private:
        before, after = private_place(state, modality)
        pads = graph.constant("pads", np.array([0, before, 0, after], np.int64))
        weighed = graph.scaled(private, how.private * scale, "private_own")
        parts.append(graph.add("Pad", [weighed, pads], "private_part"))
        width += len(state[f"{modality}.private"]) + before + after
    if how.width:
        whole, project = graph.add("Concat", parts, "whole", axis=1), graph.constant("project", state["project"])
        graph.unit(graph.add("MatMul", [whole, project], "projected"), OUTPUT)
        width = state["project"].shape[1]
    else:
        graph.add("Concat", parts, OUTPUT, axis=1)
    save_graph(graph.nodes, heads[0][keys.first].shape[1], width, graph.weights, path)


def expansion(graph: Graph, state: Mapping[str, np.ndarray], modality: str, private: str, how: Combine) -> str:
    """Add the look-up among the training pairs, return the name of what it finds."""
    bank = graph.stored(state, f"{modality}.bank", "bank")
    values = graph.stored(state, f"{modality}.values", "values")
    turned = graph.add("Transpose", [bank], "bank_turned", perm=[1, 0])
    cosines = graph.add("MatMul", [private, turned], "cosines")
    is_same = graph.add("Greater", [cosines, graph.constant("same", np.array(SAME, np.float32))], "is_same")
    others = graph.add("Where", [is_same, graph.constant("far", np.array(-1, np.float32)), cosines], "others")
    count = min(how.neighbours, len(state[f"{modality}.bank"]))
    number = graph.constant("neighbours", np.array([count], np.int64))
    graph.nodes.append(helper.make_node("TopK", [others, number], ["near", "near_rows"], "nearest", axis=1))
    weights = graph.add("Softmax", [graph.scaled("near", how.sharpness, "sharp")], "weights", axis=1)
    row = graph.add("Unsqueeze", [weights, graph.constant("one", np.array([1], np.int64))], "weights_row")
    mean = graph.add("MatMul", [row, graph.add("Gather", [values, "near_rows"], "near_values", axis=0)], "means_row")
    return graph.unit(graph.add("Squeeze", [mean, "one"], "means"), "expansion_unit")
