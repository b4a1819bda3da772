"""Key maps from public checkpoint layouts to the modules that hold them, and strict loading.

open_clip        as open_clip writes it: visual.*, transformer.*, ...
hugging face     transformers' CLIPModel: text_model.*, vision_model.*, ...
tinyclip         a training checkpoint of TinyCLIP's release: one or several prefixes before open_clip's names
vista            Visualized-BGE: bge_embeddings.*, bge_encoder.*, model_visual.visual.*, visual_proj.*
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcl.common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    State = dict[str, Tensor]

# Segments in front of open_clip's names in TinyCLIP's checkpoints.
TINYCLIP_PREFIXES = re.compile(r"^_?(image_encoder|text_encoder|logit_scale)(_without_ddp)?\.(?=.)")
HUGGING_FACE = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # spelled so there
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "logit_scale": "logit_scale",
}
HUGGING_FACE_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
HOLDERS = ("state_dict", "model", "model_state_dict", "module")  # under which trainers keep a model's tensors
NO_WEIGHTS = {  # how files begin that are often found in the place of weights
    b"version https://git-lfs": "a git-lfs pointer, which stands for the weights: run `git lfs pull` where it was "
    "cloned, or download the file itself",
    b"<!DOCTYPE": "an HTML page, perhaps that of an error: download the file itself",
    b"<html": "an HTML page, perhaps that of an error: download the file itself",
}
EVA = {  # Visualized-BGE's EVA02 to timm's
    "attn.q_bias": "attn.q_proj.bias",
    "attn.v_bias": "attn.v_proj.bias",
    "attn.inner_attn_ln.": "attn.norm.",
    "mlp.w1.": "mlp.fc1_g.",
    "mlp.w2.": "mlp.fc1_x.",
    "mlp.ffn_ln.": "mlp.norm.",
    "mlp.w3.": "mlp.fc2.",
}


def read_weights(path: Path) -> "State":
    """Read tensors from safetensors or a torch file, never unpickling an object.

    Raises:
        UserError: the file can't be read so, or holds no tensors.
    """
    import torch
    from safetensors.torch import load_file

    try:
        with path.open("rb") as file:
            start = file.read(64)
        if what := next((what for begin, what in NO_WEIGHTS.items() if start.lstrip().startswith(begin)), None):
            raise UserError(f"{path} is {what}")
        if path.suffix == ".safetensors":
            return unwrapped(load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; run `fetch`, or correct `weights` in config/backbones.yaml") from error
    except Exception as error:  # torch and safetensors raise many kinds
        why = str(error).splitlines()[0]
        if path.suffix == ".safetensors":
            raise UserError(f"can't read {path} as safetensors: {why}; is it complete?") from error
        raise UserError(
            f"can't read {path} as tensors only (weights_only): {why}; a file that needs unpickling is not trusted: "
            f"convert it to safetensors yourself if you trust its source"
        ) from error
    if isinstance(content, dict):
        content = next((content[key] for key in HOLDERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        keys = f"; it holds {', '.join(map(str, list(content)[:6]))}" if isinstance(content, dict) else ""
        raise UserError(f"{path} holds no state dict of tensors, at the top or as {', '.join(HOLDERS)}{keys}")
    return unwrapped(content)


def unwrapped(state: "State") -> "State":
    """Take off what wrappers put before a model's names: `_orig_mod` of torch.compile, and a part that all share."""
    state = {".".join(part for part in key.split(".") if part != "_orig_mod"): value for key, value in state.items()}
    while len(state) > 1 and len(firsts := {key.partition(".")[0] for key in state}) == 1:
        if not all("." in key for key in state):
            break
        (first,) = firsts
        state = {key.removeprefix(f"{first}."): value for key, value in state.items()}
    return state


def from_hugging_face(state: "State") -> "State":
    """Rename transformers' CLIPModel to open_clip's CLIP: join q, k and v, transpose the projections."""
    import torch

    renamed: State = {}
    for key, value in state.items():
        if key in HUGGING_FACE:
            renamed[HUGGING_FACE[key]] = value
        elif key in ("text_projection.weight", "visual_projection.weight"):
            renamed["text_projection" if key.startswith("text") else "visual.proj"] = value.T.contiguous()
        elif match := re.match(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$", key):
            tower, layer, part, kind = match.groups()
            block = f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{layer}"
            if part == "self_attn.q_proj":
                parts = [state[key.replace("q_proj", f"{name}_proj")] for name in "qkv"]
                renamed[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
            elif part in HUGGING_FACE_BLOCK:
                renamed[f"{block}.{HUGGING_FACE_BLOCK[part]}.{kind}"] = value
            elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
                renamed[key] = value
        elif not key.endswith("position_ids"):
            renamed[key] = value  # unknown: the strict load will name it
    return renamed


def from_tinyclip(state: "State") -> "State":
    """Strip the prefixes of TinyCLIP's training wrappers; mask parameters of its pruning (l0_module) are left out."""
    renamed: State = {}
    for key, value in state.items():
        name = ".".join(part for part in key.split(".") if part != "module")
        if "l0_module" in name or name.endswith("attn_mask"):
            continue
        renamed[TINYCLIP_PREFIXES.sub("", name)] = value
    return renamed


def from_vista(state: "State") -> "State":
    """Rename Visualized-BGE to vista.Vista. What that never uses is left out: pooler, final norm, head, buffers."""
    unused = re.compile(
        r"bge_pooler\.|model_visual\.logit_scale$|model_visual\.visual\.(norm|head)\.|.*\brope\.|.*position_ids$"
    )
    renamed: State = {}
    for key, value in state.items():
        if unused.match(key):
            continue
        name = key.replace("bge_embeddings.", "text.embeddings.", 1).replace("bge_encoder.", "text.encoder.", 1)
        name = name.replace("model_visual.visual.", "vision.", 1)
        if name.startswith("vision.blocks."):
            for theirs, ours in EVA.items():
                name = name.replace(theirs, ours)
        renamed[name] = value
    return renamed


def from_open_clip(state: "State") -> "State":
    """Leave out the mask that old checkpoints keep."""
    return {key: value for key, value in state.items() if key != "attn_mask"}


LAYOUTS: dict[str, Callable[["State"], "State"]] = {
    "hugging face": from_hugging_face,
    "tinyclip": from_tinyclip,
    "vista": from_vista,
    "open_clip": from_open_clip,
}


def layout_of(state: "State") -> str:
    """Tell the layout by its keys."""
    if any(key.startswith("text_model.") for key in state):
        return "hugging face"
    if any(key.startswith("bge_") for key in state):
        return "vista"
    if any("module" in key.split(".") or TINYCLIP_PREFIXES.match(key) for key in state):
        return "tinyclip"
    return "open_clip"


def load_strictly(module: "nn.Module", state: "State", name: str) -> None:
    """Load a state dict whose keys and shapes must all agree.

    Raises:
        UserError: says which tensors are missing, unknown or of another shape.
    """
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    missing = [f"missing {k} {wanted[k]}" for k in wanted if k not in shapes]
    unknown = [f"unknown {k} {shapes[k]}" for k in shapes if k not in wanted]
    other = [f"{k} is {shapes[k]}, expected {wanted[k]}" for k in wanted if k in shapes and shapes[k] != wanted[k]]
    if n := len(missing) + len(unknown) + len(other):
        shown = [problem for kind in (missing, unknown, other) for problem in kind[:3]]
        more = f" and {n - len(shown)} more" if n > len(shown) else ""
        raise UserError(f"{name} doesn't fit the model of its row in config/backbones.yaml: {'; '.join(shown)}{more}")
    module.load_state_dict(state)
