"""Two frozen towers, whose layers a recurrent cell fuses one after the other (ReT, arXiv 2503.01980).

The towers' outputs are the means of all their layers, one after the other; what heads are to other families the cell
is here. ReT reads all tokens of each layer; here a layer is one token. It compares the K vectors of a query with those
of a document, as rows with `late: K` do; without, the mean of the K is one vector.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcl.common.errors import UserError
from gcl.config.backbones import Backbone
from gcl.models.base import Built, Family, Graph

if TYPE_CHECKING:
    from torch import Tensor, nn


def build(backbone: Backbone, data: Path) -> Built:
    """Build the model with pretrained towers and a fresh cell, in eval mode.

    Raises:
        UserError: a weight file doesn't fit its tower.
    """
    from gcl.models.modules.recurrent import RecurrentModel
    from gcl.models.timm_hf import load_by_name, load_trunk
    from gcl.models.tokenizers import load_tokenizer, pad_of
    from gcl.models.vista import text_config
    from gcl.models.weights.layouts import read_weights

    how, context = backbone.preprocess, backbone.context
    if how is None or backbone.tokenizer is None or context is None:
        raise UserError("a row of family recurrent needs preprocess, tokenizer and context")
    tokenizer = load_tokenizer(data / backbone.tokenizer, context)
    config = copy.deepcopy(backbone.model_cfg)
    config["text"] = text_config(config, backbone, data)
    model = RecurrentModel(config, backbone.late)
    load_trunk(model.trunk, config, data / backbone.weights["image"])
    text = data / backbone.weights["text"]
    load_by_name(model.bert, read_weights(text), str(text))
    model.pad = pad_of(tokenizer)

    def graphs() -> dict[str, Graph]:
        return graphs_of(model, how.size, tokenizer.get_vocab_size(), context)

    about = {"fused_context": context}
    return Built(model.eval(), model.encode_triplet, graphs, how, tokenizer, "none", {}, "row", about)


def graphs_of(model: Any, size: int, words: int, context: int, head: bool = True) -> dict[str, Graph]:
    """Return image (pixels -> vector and layers), text, and image_text (those layers and ids -> vector)."""
    import torch
    from torch.nn.functional import normalize

    from gcl.models.modules.native import native_graphs

    def vector(features: "dict[str, Tensor]") -> "Tensor":
        return normalize(model.head(features), dim=1) if head else torch.cat(list(features.values()), 1)

    def image(pixels: "Tensor") -> "tuple[Tensor, Tensor]":
        layers = model.image_layers(pixels)
        return vector({"image": layers}), layers * 1

    def text(ids: "Tensor") -> "Tensor":
        return vector({"text": model.text_layers(ids)})

    def fused(image_tokens: "Tensor", ids: "Tensor") -> "Tensor":
        return vector({"image": image_tokens, "text": model.text_layers(ids)})

    ids = min(1000, words // 2), min(20000, words)
    return native_graphs(model, image, text, fused, size, ids, model.pad, (context, context))


def towers(built: Built) -> dict[str, Graph]:
    """Return the graphs without the cell: all layers, the image's before the text's."""
    from gcl.models.tokenizers import context_of

    words, context = built.tokenizer.get_vocab_size(), context_of(built.tokenizer)
    return graphs_of(built.model, built.preprocess.size, words, context, head=False)


def cell(backbone: Backbone, image: int, text: int) -> "nn.Module":
    """Return a fresh cell for features of given widths.

    Raises:
        UserError: the row says no widths of layers, others than the features have, or a size that cells don't have.
    """
    from gcl.models.modules.recurrent import Recurrent, sizes_of

    layers = backbone.model_cfg.get("layers", {})
    widths = {side: list(layers.get(side, [])) for side in ("image", "text")}
    for side, size in (("image", image), ("text", text)):
        if sum(widths[side]) != size:
            raise UserError(
                f"model_cfg.layers.{side} is {widths[side]}, {sum(widths[side])} in all; the towers give {size}"
            )
    sizes = sizes_of(backbone.model_cfg)
    return Recurrent(widths["image"], widths["text"], sizes, backbone.model_cfg["embed_dim"], backbone.late)


FAMILY = Family(build, towers, cell=cell)
