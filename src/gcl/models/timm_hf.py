"""open_clip's CustomTextCLIP over a timm image tower and a Hugging Face text tower.

Torch and open_clip are imported on use: the config is read by processes that need neither.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcl.common.errors import UserError
from gcl.config.backbones import Backbone
from gcl.models.base import Built, Family, Graph, Keys
from gcl.models.clip import wrap

if TYPE_CHECKING:
    from torch import Tensor, nn

HEADS = {  # open_clip's names and widths
    "image": Keys(
        "visual.head.mlp.fc1.weight",
        "visual.head.mlp.fc1.bias",
        "visual.head.mlp.fc2.weight",
        lambda features, embedding: 2 * embedding,
    ),
    "text": Keys(
        "text.proj.0.weight", None, "text.proj.2.weight", lambda features, embedding: (features + embedding) // 2
    ),
}


def build(backbone: Backbone, data: Path) -> Built:
    """Build the model with pretrained towers and fresh heads, in eval mode.

    Raises:
        UserError: a weight file doesn't fit its tower; says which tensors.
    """
    from open_clip.model import CustomTextCLIP
    from safetensors.torch import load_file

    from gcl.models.tokenizers import load_tokenizer
    from gcl.models.weights.layouts import read_weights

    if backbone.preprocess is None or backbone.context is None or backbone.tokenizer is None:
        raise UserError("a row of family timm_hf needs preprocess, tokenizer and context")
    config: dict[str, Any] = copy.deepcopy(backbone.model_cfg)
    config["text_cfg"]["hf_model_name"] = str((data / backbone.weights["text_config"]).parent)
    model = CustomTextCLIP(**config)
    image = data / backbone.weights["image"]
    load_in_order(model.visual.trunk, read_weights(image), str(image))
    text = data / backbone.weights["text"]
    load_by_name(model.text.transformer, load_file(text), str(text))
    tokenizer = load_tokenizer(data / backbone.tokenizer, backbone.context)
    texts = (tokenizer, "none", backbone.context)
    return wrap(model.eval(), copy.deepcopy(backbone.model_cfg), backbone.preprocess, texts, "open_clip")


def load_in_order(module: "nn.Module", state: "dict[str, Tensor]", name: str) -> None:
    """Load a classifier's state dict whose keys are named otherwise but come in the same order.

    Counters of batch norm and the classifier, the last two tensors, are left out.
    """
    theirs = [(k, v) for k, v in state.items() if not k.endswith("num_batches_tracked")]
    ours = [k for k in module.state_dict() if not k.endswith("num_batches_tracked")]
    theirs = theirs[: len(theirs) - 2]
    shapes = module.state_dict()
    wrong = [
        f"{o} {tuple(shapes[o].shape)} <- {k} {tuple(v.shape)}"
        for o, (k, v) in zip(ours, theirs, strict=False)
        if shapes[o].shape != v.shape
    ]
    if len(theirs) != len(ours) or wrong:
        raise UserError(f"{name} holds {len(theirs)} tensors, the tower {len(ours)}; first that differ: {wrong[:3]}")
    module.load_state_dict({o: v for o, (_, v) in zip(ours, theirs, strict=True)}, strict=False)


def load_trunk(module: "nn.Module", config: dict[str, Any], path: Path) -> None:
    """Load an image trunk's public weights: in order, or by name where `model_cfg` says in_order: false.

    Raises:
        UserError: they don't fit.
    """
    from gcl.models.weights.layouts import load_strictly, read_weights

    load = load_in_order if config.get("in_order", True) else load_strictly
    load(module, read_weights(path), str(path))


def load_by_name(module: "nn.Module", state: "dict[str, Tensor]", name: str) -> None:
    """Load by name; the file may hold more (a pooler, position ids) but must not lack anything."""
    result = module.load_state_dict(state, strict=False)
    extra = [k for k in result.unexpected_keys if not k.startswith("pooler.") and not k.endswith("position_ids")]
    if result.missing_keys or extra:
        raise UserError(f"{name} doesn't fit: missing {result.missing_keys[:3]}, unknown {extra[:3]}")


def towers(built: Built) -> dict[str, Graph]:
    """Return the frozen parts: pixels -> (B, 1280), token ids -> (B, 384)."""
    from torch import nn

    class TextTower(nn.Module):
        def __init__(self, text: Any) -> None:
            super().__init__()
            self.transformer, self.pooler, self.pad = text.transformer, text.pooler, text.config.pad_token_id

        def forward(self, ids: "Tensor") -> "Tensor":
            mask = (ids != self.pad).long()
            pooled: Tensor = self.pooler(self.transformer(input_ids=ids, attention_mask=mask), mask)
            return pooled

    whole = built.graphs()
    model: Any = built.model
    return {
        "image": whole["image"]._replace(module=model.visual.trunk),
        "text": whole["text"]._replace(module=TextTower(model.text).eval()),
    }


FAMILY = Family(build, towers, HEADS)
