"""Tiny models with random weights in the exact public layouts, and plain re-implementations of what they compute."""

import json
from dataclasses import replace

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, normalize, silu, softmax

from gcl.config.backbones import Backbone, Preprocess

WORDS = 49408  # of CLIP's tokenizer
TINYCLIP = {  # the shape of TinyCLIP's configs, smaller
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": WORDS, "width": 64, "heads": 1, "layers": 2},
}
VISTA = {
    "vision": {
        "timm_model_name": "eva02_base_patch16_clip_224",
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
    },
    "text": {
        "model_type": "bert",
        "vocab_size": 400,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 64,
    },
}
M3_TEXT = {**VISTA["text"], "model_type": "xlm-roberta", "pad_token_id": 1, "type_vocab_size": 1}
LOOK = Preprocess(size=32, resize="shortest_crop", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def clip_row(weights, **more):
    return Backbone(
        family="clip", model_cfg=TINYCLIP | more, weights=weights, fusion="sum_raw", preprocess=LOOK, context=77
    )


def vista_row(weights, config=VISTA, context=16):
    return Backbone(
        family="vista",
        model_cfg=config,
        weights={"model": weights},
        fusion="native",
        preprocess=LOOK,
        tokenizer="tokenizer.json",
        context=context,
    )


def tiny_vista(data, context=16):
    """Store a tiny VISTA and its tokenizer in a folder; return its row."""
    from gcl.models.modules.vista import Vista

    word_tokenizer(data / "tokenizer.json")
    save_file(randomised(Vista(VISTA)).state_dict(), data / "vista.safetensors")
    return vista_row("vista.safetensors", context=context)


def word_tokenizer(path, roberta=False):
    """A word-level tokenizer in BERT's or XLM-R's manner."""
    special = ["<s>", "<pad>", "</s>", "<unk>"] if roberta else ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = {t: i for i, t in enumerate([*special, *(f"w{i}" for i in range(396))])}
    made = Tokenizer(models.WordLevel(words, unk_token=special[3] if roberta else special[1]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    first, last = (special[0], special[2]) if roberta else (special[2], special[3])
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, words[first]), (last, words[last])]
    )
    made.save(str(path))


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight a random value, so that nothing is at its neutral start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.05 if weight.ndim > 1 else 0.2))
            if weight.ndim == 1 and weight.mean() < 1:
                weight.add_(0.5)
    return module.eval()


def tinyclip(activation: type[nn.Module] | None = None) -> nn.Module:
    from gcl.models.clip import make

    return randomised(make(TINYCLIP))


def release(state: dict[str, Tensor]) -> dict:
    """A training checkpoint as TinyCLIP's release has it: wrapped towers, prefixes, an optimizer beside it."""
    found = {}
    for key, value in state.items():
        wrapper = (
            "_image_encoder."
            if key.startswith("visual.")
            else "_logit_scale."
            if key == "logit_scale"
            else "_text_encoder."
        )
        found[f"module.{wrapper}module.{key}"] = value
    return {"epoch": 25, "name": "tiny", "state_dict": found, "optimizer": {"state": {}, "param_groups": []}}


def hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights as transformers' CLIPModel names them."""
    names = {
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "logit_scale": "logit_scale",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    }
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    parts |= {"attn.out_proj": "self_attn.out_proj"}
    norms = {"ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm"}
    norms |= {"visual.ln_post": "vision_model.post_layernorm"}
    found = {}
    for key, value in state.items():
        stem, _, kind = key.rpartition(".")
        if key in names:
            found[names[key]] = value
        elif key in ("text_projection", "visual.proj"):
            found["text_projection.weight" if key[0] == "t" else "visual_projection.weight"] = value.T.contiguous()
        elif stem in norms:
            found[f"{norms[stem]}.{kind}"] = value
        else:
            tower = "vision_model" if key.startswith("visual.") else "text_model"
            _, layer, part = key.removeprefix("visual.").removeprefix("transformer.").split(".", 2)
            block = f"{tower}.encoder.layers.{layer}"
            if part.startswith("attn.in_proj"):
                for name, piece in zip("qkv", value.chunk(3), strict=True):
                    found[f"{block}.self_attn.{name}_proj.{part.rpartition('_')[2]}"] = piece.clone()
            else:
                stem, _, kind = part.rpartition(".")
                found[f"{block}.{parts[stem]}.{kind}"] = value
    return found


def hugging_face_config(activation: str) -> str:
    return json.dumps({"text_config": {"hidden_act": activation}, "vision_config": {"hidden_act": activation}})


def norm(x: Tensor, state: dict[str, Tensor], name: str, eps: float) -> Tensor:
    return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state.get(f"{name}.bias"), eps)


def dense(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """One head after the other, for one sequence (L, W)."""
    found = []
    for a, b, c in zip(*(x.chunk(heads, 1) for x in (q, k, v)), strict=True):
        found.append(softmax(a @ b.T / a.shape[1] ** 0.5, 1) @ c)
    return torch.cat(found, 1)


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate interleaved pairs of (P, 64) by angles (P, 32)."""
    even, odd = x[:, 0::2], x[:, 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], 2).flatten(1)


def eva_tokens(state: dict[str, Tensor], pixels: Tensor, heads: int, patch: int) -> Tensor:
    """EVA02's last block for one image (3, S, S): (P, W) patch tokens before the final norm, class token dropped."""
    s = {k.removeprefix("model_visual.visual."): v for k, v in state.items()}
    patches = pixels.unfold(1, patch, patch).unfold(2, patch, patch).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
    x = patches @ s["patch_embed.proj.weight"].flatten(1).T + s["patch_embed.proj.bias"]
    x = torch.cat([s["cls_token"][0], x]) + s["pos_embed"][0]
    width, side = x.shape[1], pixels.shape[1] // patch
    size = width // heads
    bands = 1 / 10000 ** (torch.arange(0, size // 2, 2)[: size // 4] / (size // 2))
    grid = torch.arange(side) / side * 16  # positions of a 16 x 16 grid
    rows, columns = torch.meshgrid(grid, grid, indexing="ij")
    angles = torch.cat([rows.flatten()[:, None] * bands, columns.flatten()[:, None] * bands], 1)  # (P, size / 2)
    depth = 1 + max(int(k.split(".")[1]) for k in s if k.startswith("blocks."))
    for i in range(depth):
        b = f"blocks.{i}."
        y = norm(x, s, f"{b}norm1", 1e-6)
        q = linear(y, s[f"{b}attn.q_proj.weight"], s[f"{b}attn.q_bias"])
        k = linear(y, s[f"{b}attn.k_proj.weight"])
        v = linear(y, s[f"{b}attn.v_proj.weight"], s[f"{b}attn.v_bias"])
        q, k = (torch.cat([torch.cat([h[:1], rotated(h[1:], angles)]) for h in z.chunk(heads, 1)], 1) for z in (q, k))
        x = x + dense(norm(attend(q, k, v, heads), s, f"{b}attn.inner_attn_ln", 1e-6), s, f"{b}attn.proj")
        y = norm(x, s, f"{b}norm2", 1e-6)
        y = norm(silu(dense(y, s, f"{b}mlp.w1")) * dense(y, s, f"{b}mlp.w2"), s, f"{b}mlp.ffn_ln", 1e-6)
        x = x + dense(y, s, f"{b}mlp.w3")
    return x[1:]


def bge(state: dict[str, Tensor], words: Tensor, heads: int, eps: float) -> Tensor:
    """BERT on one sequence of embedded, normed tokens (L, W); the unit vector of the first."""
    x = words
    for i in range(1 + max(int(k.split(".")[2]) for k in state if k.startswith("bge_encoder."))):
        b = f"bge_encoder.layer.{i}."
        q, k, v = (dense(x, state, f"{b}attention.self.{n}") for n in ("query", "key", "value"))
        y = dense(attend(q, k, v, heads), state, f"{b}attention.output.dense")
        x = norm(x + y, state, f"{b}attention.output.LayerNorm", eps)
        y = dense(gelu(dense(x, state, f"{b}intermediate.dense")), state, f"{b}output.dense")
        x = norm(x + y, state, f"{b}output.LayerNorm", eps)
    return normalize(x[0], dim=0)


def vista_vector(
    state: dict[str, Tensor], ids: list[int], pixels: Tensor | None, config: dict, eva_heads: int, patch: int
) -> Tensor:
    """Visualized-BGE for one item, token by token; ids are [CLS] text [SEP] without padding."""
    table = state["bge_embeddings.word_embeddings.weight"]
    positions = state["bge_embeddings.position_embeddings.weight"]
    kind = state["bge_embeddings.token_type_embeddings.weight"][0]
    first = 2 if config["model_type"] == "xlm-roberta" and pixels is None else 0
    image = [] if pixels is None else list(eva_tokens(state, pixels, eva_heads, patch))
    rows = [table[ids[0]] + positions[first] + kind]
    rows += [dense(x, state, "visual_proj") + positions[i] for i, x in enumerate(image, 1)]  # no token type
    rows += [table[t] + positions[first + len(image) + i] + kind for i, t in enumerate(ids[1:], 1)]
    eps = config.get("layer_norm_eps", 1e-12)
    words = norm(torch.stack(rows), state, "bge_embeddings.LayerNorm", eps)
    return bge(state, words, config["num_attention_heads"], eps)


def public_vista(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a VISTA in the layout of BAAI/bge-visualized, with its unused tensors."""
    names = {
        "attn.q_proj.bias": "attn.q_bias",
        "attn.v_proj.bias": "attn.v_bias",
        "attn.norm.": "attn.inner_attn_ln.",
        "mlp.fc1_g.": "mlp.w1.",
        "mlp.fc1_x.": "mlp.w2.",
        "mlp.norm.": "mlp.ffn_ln.",
        "mlp.fc2.": "mlp.w3.",
    }
    found = {}
    for key, value in model.state_dict().items():
        name = key.replace("text.embeddings.", "bge_embeddings.").replace("text.encoder.", "bge_encoder.")
        name = name.replace("vision.", "model_visual.visual.", 1) if name.startswith("vision.") else name
        if ".blocks." in name:
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
        found[name] = value.clone()
    width, text = found["visual_proj.weight"].shape[1], found["visual_proj.weight"].shape[0]
    found |= {f"bge_pooler.dense.{k}": torch.randn(*s) for k, s in (("weight", (text, text)), ("bias", (text,)))}
    found |= {f"model_visual.visual.norm.{k}": torch.randn(width) for k in ("weight", "bias")}
    found |= {
        "model_visual.visual.head.weight": torch.randn(16, width),
        "model_visual.visual.head.bias": torch.randn(16),
    }
    found |= {"model_visual.logit_scale": torch.tensor(4.6)}
    for start in ("", "blocks.0.attn.", "blocks.1.attn."):
        found |= {f"model_visual.visual.{start}rope.freqs_{f}": torch.randn(16, 16) for f in ("cos", "sin")}
    return found


def pruned_state(model, seed=0):
    """Cut a CLIP down as TinyCLIP's automatic inheritance does: width, heads and MLPs differ; sub-layers are gone."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(*shape, generator=generator) * (0.05 if len(shape) > 1 else 0.3)

    found = {"logit_scale": torch.tensor(4.0)}
    towers = {"visual.": (51, ((2, 100), (1, None), (None, 70))), "": (43, ((1, 60), (3, 33)))}
    for prefix, (width, blocks) in towers.items():
        for i, (heads, mlp) in enumerate(blocks):
            b = f"{prefix}transformer.resblocks.{i}."
            if heads is not None:
                found |= {f"{b}ln_1.weight": rand(width) + 1, f"{b}ln_1.bias": rand(width)}
                found |= {
                    f"{b}attn.in_proj_weight": rand(192 * heads, width),
                    f"{b}attn.in_proj_bias": rand(192 * heads),
                }
                found |= {f"{b}attn.out_proj.weight": rand(width, 64 * heads), f"{b}attn.out_proj.bias": rand(width)}
            if mlp is not None:
                found |= {f"{b}ln_2.weight": rand(width) + 1, f"{b}ln_2.bias": rand(width)}
                found |= {f"{b}mlp.c_fc.weight": rand(mlp, width), f"{b}mlp.c_fc.bias": rand(mlp)}
                found |= {f"{b}mlp.c_proj.weight": rand(width, mlp), f"{b}mlp.c_proj.bias": rand(width)}
    found |= {f"visual.{n}.{k}": rand(51) + 1 for n in ("ln_pre", "ln_post") for k in ("weight", "bias")}
    found |= {"visual.conv1.weight": rand(51, 3, 16, 16), "visual.class_embedding": rand(51)}
    found |= {"visual.positional_embedding": rand(5, 51), "visual.proj": rand(51, 32)}
    found |= {"token_embedding.weight": rand(49408, 43), "positional_embedding": rand(77, 43)}
    found |= {"ln_final.weight": rand(43) + 1, "ln_final.bias": rand(43), "text_projection": rand(43, 32)}
    return found


def row_of(family, data):
    if family == "vista":
        return tiny_vista(data, context=24)
    if family == "in_turns":
        found = tiny_vista(data, context=24)
        return replace(found, model_cfg=VISTA | {"vision": VISTA["vision"] | {"grid": 2}, "in_turns": True})
    state = pruned_state(None) if family == "pruned" else tinyclip().state_dict()
    save_file({k: v.clone() for k, v in state.items()}, data / "w.safetensors")
    return clip_row({"model": "w.safetensors"})


def clip_of_transformers(folder):
    """Write a tiny CLIP as transformers has it, with its processor; return the folder."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    words = {"<|startoftext|>": 0, "<|endoftext|>": 1} | {f"{c}</w>": k + 2 for k, c in enumerate("abcdefghijklmnop")}
    letters = {c: len(words) + k for k, c in enumerate("abcdefghijklmnop")}
    (folder / "vocab.json").write_text(json.dumps(words | letters))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, "vocab_size": 40, "max_position_embeddings": 16, "eos_token_id": 1, "bos_token_id": 0}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config={**size, "image_size": 16, "patch_size": 8}, projection_dim=8)
    CLIPModel(config).eval().save_pretrained(folder)
    picture = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(picture, tokenizer).save_pretrained(folder)
    return folder
