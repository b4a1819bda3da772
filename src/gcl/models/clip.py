"""CLIP and TinyCLIP: open_clip's own modules, or pruned.PrunedClip for the auto-inherited TinyCLIPs.

Torch and open_clip are imported on use: the config is read by processes that need neither.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcl.common.errors import UserError
from gcl.config.backbones import Backbone, Preprocess
from gcl.models.base import Built, Family, Graph

if TYPE_CHECKING:
    from torch import Tensor, nn

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SCHEMAS = ("local-dir:", "hf-hub:")


def build(backbone: Backbone, data: Path) -> Built:
    """Build the model with its public weights.

    Raises:
        UserError: unknown model, missing weights, a shape or a GELU kind that disagrees.
    """
    from gcl.models.tokenizers import clip_tokenizer, load_tokenizer

    config = model_config(backbone)
    if backbone.weights:
        model, layout = from_files(backbone, config, data)
    else:
        model, layout = from_open_clip(backbone), "open_clip"
    preprocess = backbone.preprocess or preprocess_of(model, config)
    context = backbone.context or model.context_length
    if backbone.tokenizer:
        tokenizer, clean = load_tokenizer(data / backbone.tokenizer, context), "none"
    elif config.get("text_cfg", {}).get("hf_tokenizer_name"):
        raise UserError(f"model {backbone.model} has a tokenizer of its own: name its tokenizer.json in the row")
    else:
        tokenizer, clean = clip_tokenizer(context), "clip"
    return wrap(model.eval(), config, preprocess, (tokenizer, clean, context), layout)


def wrap(
    model: "nn.Module", config: dict[str, Any], preprocess: Preprocess, texts: tuple[Any, str, int], layout: str
) -> Built:
    """Describe a model with encode_image and encode_text."""
    tokenizer, clean, context = texts
    kind = "quick_gelu" if config.get("quick_gelu") else "gelu"
    shown = {
        "model_cfg": config,
        "preprocess_cfg": {
            "size": [preprocess.size, preprocess.size],
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": "bicubic",
            "resize_mode": "squash" if preprocess.resize == "squash" else "shortest",
        },
    }

    def encode(pixels: "Tensor", ids: "Tensor") -> dict[str, "Tensor"]:
        return {"image": model.encode_image(pixels), "text": model.encode_text(ids)}

    def graphs() -> dict[str, Graph]:
        return score_fusion_graphs(model, preprocess.size, context, vocabulary(tokenizer), fixed=clean == "clip")

    return Built(model, encode, graphs, preprocess, tokenizer, clean, shown, layout, {"activation": kind})


def vocabulary(tokenizer: Any) -> int:
    """Return the number of token ids."""
    return int(tokenizer.get_vocab_size())


def score_fusion_graphs(model: "nn.Module", size: int, context: int, words: int, fixed: bool) -> dict[str, Graph]:
    """Return the graphs of both towers; CLIP's texts always have `context` tokens, others any number."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self, modality: str) -> None:
            super().__init__()
            self.model, self.modality = model, modality

        def forward(self, inputs: "Tensor") -> "Tensor":
            encode = self.model.encode_image if self.modality == "image" else self.model.encode_text
            vectors: Tensor = encode(inputs)
            return vectors

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(3, 3, size, size, generator=generator)
    if fixed:
        ids = torch.randint(300, words - 2, (3, context), generator=generator)
        for row, end in enumerate((context - 1, 5, 9)):
            ids[row, 0], ids[row, end], ids[row, end + 1 :] = words - 2, words - 1, 0
    else:
        ids = torch.randint(min(1000, words // 2), min(20000, words), (3, 9), generator=generator)
        ids[1:, 5:] = 0  # padded rows
    return {
        "image": Graph(Encoder("image").eval(), {"pixels": pixels}, {"pixels": ("batch",)}),
        "text": Graph(
            Encoder("text").eval(), {"ids": ids}, {"ids": ("batch",) if fixed else ("batch", "tokens")}, context
        ),
    }


def model_config(backbone: Backbone) -> dict[str, Any]:
    """Return open_clip's config of the row's model."""
    import copy

    import open_clip

    from gcl.common.names import suggestion

    if backbone.model_cfg:
        return copy.deepcopy(backbone.model_cfg)
    name = backbone.model or ""
    if name.startswith("local-dir:"):
        path = Path(name.removeprefix("local-dir:")) / "open_clip_config.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))["model_cfg"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"model '{name}': can't read model_cfg from {path}: {error!r}") from error
    if name.startswith("hf-hub:"):
        return dict(open_clip.get_model_config(name) or {})
    config = open_clip.get_model_config(name)
    if config is None:
        known = suggestion(name, open_clip.list_models())
        raise UserError(f"open_clip has no model '{name}'{known}; or give local-dir:FOLDER or hf-hub:ORG/NAME")
    return dict(config)


def from_open_clip(backbone: Backbone) -> Any:
    """Let open_clip find the weights: a tag, a folder, or a repository on the hub."""
    import open_clip

    name = backbone.model or ""
    if not backbone.pretrained and not name.startswith(SCHEMAS):
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise UserError(f"model '{name}' needs `weights` or `pretrained`, one of open_clip's tags: {', '.join(tags)}")
    try:
        return open_clip.create_model(name, backbone.pretrained, require_pretrained=True)
    except Exception as error:  # open_clip raises RuntimeError, OSError, KeyError and the hub's own
        raise UserError(
            f"open_clip can't load '{name}' ({backbone.pretrained or 'its own weights'}): {error}"
        ) from error


def from_files(backbone: Backbone, config: dict[str, Any], data: Path) -> tuple[Any, str]:
    """Load the row's weight file strictly, whichever public layout it has."""
    from torch import nn

    from gcl.models.modules.pruned_clip import PrunedClip, is_pruned
    from gcl.models.weights.layouts import LAYOUTS, layout_of, load_strictly, read_weights

    path = data / backbone.weights["model"]
    state = read_weights(path)
    layout = layout_of(state)
    if layout == "vista":
        raise UserError(f"{path} is a Visualized-BGE checkpoint; its row needs `family: vista`")
    if layout == "hugging face":
        check_activation(backbone, config, data)
    state = LAYOUTS[layout](state)
    if is_pruned(state):
        if config.get("quick_gelu"):
            raise UserError(f"{path} is a pruned TinyCLIP, which has exact GELU; its row says quick_gelu")
        model: Any = PrunedClip(state, nn.GELU)
        load_strictly(model, state, str(path))
        return model, "pruned"
    model = make(config)
    load_strictly(model, state, str(path))
    return model, "open_clip"


def make(config: dict[str, Any]) -> Any:
    """Make open_clip's module of a config, with random weights."""
    import copy

    from open_clip.model import CLIP, CustomTextCLIP

    config = copy.deepcopy(config)
    is_custom = config.pop("custom_text", False) or "hf_model_name" in config.get("text_cfg", {})
    try:
        return (CustomTextCLIP if is_custom else CLIP)(**config)
    except (TypeError, KeyError) as error:
        raise UserError(f"model_cfg is no config of open_clip: {error}") from error


def check_activation(backbone: Backbone, config: dict[str, Any], data: Path) -> None:
    """Refuse a Hugging Face CLIPModel whose GELU isn't the row's; a wrong one loads and is silently worse."""
    if "config" not in backbone.weights:
        raise UserError("weights of transformers' CLIPModel need their config.json too: `weights: {config: ...}`")
    path = data / backbone.weights["config"]
    about = json.loads(path.read_text(encoding="utf-8"))
    wanted = "quick_gelu" if config.get("quick_gelu") else "gelu"
    for tower in ("text_config", "vision_config"):
        activation = (about.get(tower) or {}).get("hidden_act", "quick_gelu")  # transformers' default
        if activation != wanted:
            raise UserError(
                f"{path}: {tower} has hidden_act {activation}, the row in config/backbones.yaml {wanted}; "
                f"set quick_gelu: {str(activation == 'quick_gelu').lower()} in its model_cfg if the file is right"
            )


def preprocess_of(model: Any, config: dict[str, Any]) -> Preprocess:
    """Return what the weights were made for: open_clip's record, else OpenAI's."""
    record = getattr(model.visual, "preprocess_cfg", None) or {}
    size = record.get("size") or config.get("vision_cfg", {}).get("image_size", 224)
    size = size if isinstance(size, int) else size[0]
    plain = Preprocess(size=size, resize="shortest_crop", mean=MEAN, std=STD)
    if record:
        squash = record.get("resize_mode") == "squash"
        plain = replace(
            plain, mean=tuple(record["mean"]), std=tuple(record["std"]), resize="squash" if squash else "shortest_crop"
        )
    return plain


FAMILY = Family(build)
