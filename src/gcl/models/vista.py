"""VISTA (Visualized-BGE, arXiv 2406.04292): a BERT that reads image tokens after its [CLS].

Stock parts: a timm image trunk, a transformers BERT or XLM-R. An image is read as [CLS] image [SEP], an
image with text as [CLS] image text [SEP]; positions count through; image tokens carry no token type.
Image tokens are the trunk's last block's, *before* its final norm.
"""

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcl.common.errors import UserError
from gcl.config.backbones import Backbone
from gcl.models.base import Built, Family, Graph, Keys

if TYPE_CHECKING:
    from torch import Tensor

SHARED = Keys("proj.0.weight", "proj.0.bias", "proj.2.weight", lambda features, embedding: (features + embedding) // 2)
HEADS = {"image": SHARED, "text": SHARED, "image_text": SHARED}  # one encoder reads all three, one head follows it


def build(backbone: Backbone, data: Path) -> Built:
    """Build the model with its weights: one public file (`model`), or an image tower, a BERT and a projection.

    Raises:
        UserError: a weight file doesn't fit; says which tensors.
    """
    from gcl.models.modules.vista import Vista
    from gcl.models.tokenizers import load_tokenizer, pad_of

    if backbone.preprocess is None or backbone.tokenizer is None or backbone.context is None:
        raise UserError("a row of family vista needs preprocess, tokenizer and context")
    context = backbone.context
    tokenizer = load_tokenizer(data / backbone.tokenizer, context)
    config = copy.deepcopy(backbone.model_cfg)
    config["text"] = text_config(config, backbone, data)
    model = Vista(config)
    load(model, backbone, data)
    empty = tokenizer.encode("").ids  # [CLS] [SEP]
    model.set_empty(empty[:2], pad=pad_of(tokenizer))
    size = backbone.preprocess.size

    def graphs() -> dict[str, Graph]:
        return graphs_of(model, size, tokenizer.get_vocab_size(), context)

    about = {"activation": config["text"].get("hidden_act", "gelu"), "fused_context": model.fused_context(context)}
    about |= {"positions": model.positions} if model.reads_in_turns else {}
    shown = {
        "vista": config,
        "preprocess": {"size": size, "mean": backbone.preprocess.mean, "std": backbone.preprocess.std},
    }
    return Built(
        model.eval(), model.encode_triplet, graphs, backbone.preprocess, tokenizer, "none", shown, "vista", about
    )


def text_config(config: dict[str, Any], backbone: Backbone, data: Path) -> dict[str, Any]:
    """Return the BERT's config: inline, or the config.json among the weights."""
    if "text" in config:
        return dict(config["text"])
    path = data / backbone.weights["text_config"]
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"can't read the text model's config {path}: {error}") from error


def load(model: Any, backbone: Backbone, data: Path) -> None:
    """Load the weights of the row."""
    from gcl.models.timm_hf import load_by_name, load_in_order
    from gcl.models.weights.layouts import LAYOUTS, layout_of, load_strictly, read_weights

    if "model" in backbone.weights:
        path = data / backbone.weights["model"]
        state = read_weights(path)
        if layout_of(state) == "vista":
            state = LAYOUTS["vista"](state)
        load_strictly(model, state, str(path))
        return
    image, text = data / backbone.weights["image"], data / backbone.weights["text"]
    load_in_order(model.vision, read_weights(image), str(image))
    load_by_name(model.text, read_weights(text), str(text))
    if "visual_proj" in backbone.weights:
        path = data / backbone.weights["visual_proj"]
        load_strictly(model.visual_proj, read_weights(path), str(path))


def graphs_of(model: Any, size: int, words: int, context: int, head: bool = True) -> dict[str, Graph]:
    """Return image (pixels -> vector and image tokens), text, and image_text (those tokens and ids -> vector).

    So the image tower runs once for an image and all texts it is joined with.
    """
    from gcl.models.modules.native import native_graphs

    def image(pixels: "Tensor") -> "tuple[Tensor, Tensor]":
        tokens = model.image_tokens(pixels)
        return model.fuse(tokens, model.empty_ids(tokens.shape[0]), head), tokens

    def text(ids: "Tensor") -> "Tensor":
        vectors: Tensor = model.encode_text(ids, head)
        return vectors

    def fused(image_tokens: "Tensor", ids: "Tensor") -> "Tensor":
        vectors: Tensor = model.fuse(image_tokens, ids, head)
        return vectors

    ids = min(1000, words // 2), min(20000, words)
    graphs = native_graphs(model, image, text, fused, size, ids, model.pad, (context, model.fused_context(context)))
    return graphs | ({"in_turns": in_turns_graph(model, graphs["image_text"], head)} if model.reads_in_turns else {})


def in_turns_graph(model: Any, fused: Graph, head: bool) -> Graph:
    """Return the graph of items in turns, with two images each in its example."""
    import torch

    from gcl.models.modules.native import InTurns

    tokens, ids = fused.inputs["image_tokens"].repeat(1, 2, 1), fused.inputs["ids"]
    images, length = tokens.shape[1], ids.shape[1]
    order = [images, *range(images // 2), images + 1, *range(images // 2, images), *range(images + 2, images + length)]
    orders = torch.tensor([order, [*order[:-2], -1, -1], order[::-1]])

    def way(image_tokens: "Tensor", ids: "Tensor", order: "Tensor") -> "Tensor":
        vectors: Tensor = model.fuse_in_turns(image_tokens, ids, order, head)
        return vectors

    free: dict[str, tuple[str, ...]] = {
        "image_tokens": ("batch", "images"),
        "ids": ("batch", "words"),
        "order": ("batch", "places"),
    }
    inputs = {"image_tokens": tokens, "ids": ids, "order": orders}
    return Graph(InTurns(model, way).eval(), inputs, free, model.positions)


def towers(built: Built) -> dict[str, Graph]:
    """Return the graphs without the projection head."""
    from gcl.models.tokenizers import context_of

    words, context = built.tokenizer.get_vocab_size(), context_of(built.tokenizer)
    return graphs_of(built.model, built.preprocess.size, words, context, head=False)


FAMILY = Family(build, towers, HEADS)
