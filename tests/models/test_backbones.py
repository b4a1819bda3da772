"""Public checkpoint layouts, in tiny random models, against plain re-implementations of what they compute."""

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import normalize

from gcl.common.errors import UserError
from gcl.config.backbones import Backbone
from gcl.models import family
from gcl.models.modules.vista import pooling
from gcl.models.tokenizers import clip_tokenizer, to_ids
from gcl.models.weights.layouts import layout_of
from support.hub import serving
from support.models import (
    M3_TEXT,
    TINYCLIP,
    VISTA,
    clip_row,
    eva_tokens,
    hugging_face,
    hugging_face_config,
    pruned_state,
    public_vista,
    randomised,
    release,
    tinyclip,
    vista_row,
    vista_vector,
    word_tokenizer,
)

PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def clip_ids():
    return torch.from_numpy(to_ids(clip_tokenizer(77), ["a cat", "", "two dogs on a hill"], "clip"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """One tiny TinyCLIP stored in all three public layouts."""
    folder = tmp_path_factory.mktemp("weights")
    model = tinyclip()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip.safetensors")
    save_file(hugging_face(state), folder / "hf.safetensors")
    torch.save(release(state), folder / "release.pt")
    for kind in ("gelu", "quick_gelu"):
        (folder / f"{kind}.json").write_text(hugging_face_config(kind))
    return folder, model


@pytest.mark.parametrize(
    "weights",
    [{"model": "open_clip.safetensors"}, {"model": "release.pt"}, {"model": "hf.safetensors", "config": "gelu.json"}],
    ids=["open_clip", "release", "hugging face"],
)
def test_every_layout_gives_the_same_vectors(stored, weights):
    folder, model = stored
    built = family("clip").build(clip_row(weights), folder)
    with torch.inference_mode():
        found = built.encode(PIXELS, clip_ids())
        torch.testing.assert_close(found["image"], model.encode_image(PIXELS), rtol=0, atol=1e-6)
        torch.testing.assert_close(found["text"], model.encode_text(clip_ids()), rtol=0, atol=1e-6)
    assert built.about["activation"] == "gelu"


def test_transformers_computes_the_same_from_its_own_layout(stored):
    """The layout that tests write is transformers' own: its CLIPModel loads it strictly and agrees."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
    common = {"projection_dim": 32, "hidden_act": "gelu"}
    config = CLIPConfig(
        text_config={**text, **common, "vocab_size": 49408, "eos_token_id": 49407},
        vision_config={**text, **common, "image_size": 32, "patch_size": 16},
        projection_dim=32,
    )
    theirs = CLIPModel(config).eval()
    model = stored[1]
    theirs.load_state_dict(hugging_face(model.state_dict()))
    ids = clip_ids()
    with torch.inference_mode():
        image = theirs.get_image_features(pixel_values=PIXELS)
        text = theirs.get_text_features(input_ids=ids)
        image, text = (getattr(x, "pooler_output", x) for x in (image, text))
        torch.testing.assert_close(model.encode_image(PIXELS), image, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.encode_text(ids), text, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "config", "message"),
    [
        ({}, "quick_gelu.json", "text_config has hidden_act quick_gelu, the row .* gelu; set quick_gelu: true"),
        ({"quick_gelu": True}, "gelu.json", "hidden_act gelu, the row .* quick_gelu; set quick_gelu: false"),
    ],
)
def test_another_gelu_is_refused(stored, more, config, message):
    weights = {"model": "hf.safetensors", "config": config}
    with pytest.raises(ValueError, match=message):
        family("clip").build(clip_row(weights, **more), stored[0])


WRAPPED = {  # as trainers leave them
    "torch.compile": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "compiled in DDP": lambda state: {"state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}},
    "DDP around compiled towers": lambda state: {
        f"module.{k.replace('visual.', 'visual._orig_mod.')}": v for k, v in state.items()
    },
    "UniIR": lambda state: {"model": {f"clip_model.{k}": v for k, v in state.items()}, "optimizer": {}, "epoch": 3},
    "old": lambda state: {"model_state_dict": state | {"attn_mask": torch.zeros(77, 77)}},
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_what_trainers_put_around_a_model_is_taken_off(stored, tmp_path, wrap):
    model = stored[1]
    torch.save(wrap({k: v.clone() for k, v in model.state_dict().items()}), tmp_path / "w.pth")
    built = family("clip").build(clip_row({"model": "w.pth"}), tmp_path)
    with torch.inference_mode():
        found = built.encode(PIXELS, clip_ids())["image"]
        torch.testing.assert_close(found, model.encode_image(PIXELS), rtol=0, atol=1e-6)


def test_names_of_the_file_stand_beside_the_expected(stored, tmp_path):
    state = {f"tower.{k}" if "visual" in k else k: v.clone() for k, v in stored[1].state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    message = r"missing visual\.class_embedding .*unknown tower\.visual\.class_embedding .*and \d+ more"
    with pytest.raises(UserError, match=message):
        family("clip").build(clip_row({"model": "w.safetensors"}), tmp_path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 27\n"


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    ("data", "message"),
    [(POINTER, "git-lfs pointer"), (b"\n<!DOCTYPE html><html>", "an HTML page"), (b"\x10\0\0", "can't read")],
)
def test_what_is_no_file_of_weights_is_called_by_its_name(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        family("clip").build(clip_row({"model": name}), tmp_path)
    assert "weights_only=False" not in str(caught.value)
    assert ("unpickling" in str(caught.value)) == (message == "can't read" and name == "w.pt")


def test_weights_of_another_shape_are_refused_and_named(stored):
    with pytest.raises(ValueError, match=r"visual.proj is \(64, 32\), expected \(64, 16\)"):
        family("clip").build(clip_row({"model": "release.pt"}, embed_dim=16), stored[0])


def test_missing_and_unknown_tensors_are_named(stored, tmp_path):
    state = dict(stored[1].state_dict())
    state["stranger"] = state.pop("ln_final.bias")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"missing ln_final.bias \(64,\); unknown stranger \(64,\)"):
        family("clip").build(clip_row({"model": "w.safetensors"}), tmp_path)


def test_an_open_clip_folder_is_a_backbone(stored, tmp_path):
    model = stored[1]
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINYCLIP, "preprocess_cfg": {"size": 32}}))
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    row = Backbone(family="clip", model=f"local-dir:{tmp_path}", fusion="sum_raw")
    built = family("clip").build(row, tmp_path)
    assert (built.preprocess.size, built.preprocess.resize) == (32, "shortest_crop")
    with torch.inference_mode():
        torch.testing.assert_close(built.encode(PIXELS, clip_ids())["image"], model.encode_image(PIXELS))
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(ValueError, match="open_clip can't load"):
        family("clip").build(row, tmp_path)


PROBE = """
import sys, torch
from pathlib import Path
from gcl.models import family
from gcl.config.backbones import Backbone
built = family("clip").build(Backbone(family="clip", model="hf-hub:org/tiny", fusion="sum_raw"), Path("."))
found = built.encode(torch.ones(1, 3, 32, 32), torch.ones(1, 77, dtype=torch.long))
torch.save((found, built.preprocess.size), sys.argv[1])
"""


def test_a_repository_on_the_hub_is_a_backbone(stored, tmp_path):
    from safetensors.torch import save

    model = stored[1]
    config = json.dumps({"model_cfg": TINYCLIP, "preprocess_cfg": {"size": 32}}).encode()
    files = {"open_clip_config.json": config, "open_clip_model.safetensors": save(dict(model.state_dict()))}
    with serving(files) as url:
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-c", PROBE, str(tmp_path / "out.pt")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        del files["open_clip_model.safetensors"]
        environment["HF_HOME"] = str(tmp_path / "other")
        assert "open_clip can't load" in subprocess.run(command, env=environment, capture_output=True, text=True).stderr
    found, size = torch.load(tmp_path / "out.pt", weights_only=True)
    with torch.inference_mode():
        torch.testing.assert_close(found["image"], model.encode_image(torch.ones(1, 3, 32, 32)), rtol=0, atol=1e-6)
    assert size == 32


def test_an_unknown_model_is_answered_with_a_suggestion(tmp_path):
    with pytest.raises(ValueError, match=r"open_clip has no model 'ViT-B-33' \(did you mean 'ViT-B-32'\?\)"):
        family("clip").build(Backbone(family="clip", model="ViT-B-33", fusion="sum_raw"), tmp_path)
    with pytest.raises(ValueError, match="needs `weights` or `pretrained`, one of open_clip's tags: .*openai"):
        family("clip").build(Backbone(family="clip", model="ViT-B-32", fusion="sum_raw"), tmp_path)


def literal_tower(state, prefix, x, is_causal):
    """The blocks of one tower for one sequence (L, W), head by head."""
    from support.models import dense, norm

    for i in range(3):
        b = f"{prefix}transformer.resblocks.{i}."
        if f"{b}attn.in_proj_weight" in state:
            y = norm(x, state, f"{b}ln_1", 1e-5)
            q, k, v = (y @ state[f"{b}attn.in_proj_weight"].T + state[f"{b}attn.in_proj_bias"]).chunk(3, 1)
            mixed = []
            for a, c, d in zip(*(z.split(64, 1) for z in (q, k, v)), strict=True):
                logits = a @ c.T / 8
                if is_causal:
                    logits = logits + torch.full_like(logits, -torch.inf).triu(1)
                mixed.append(logits.softmax(1) @ d)
            x = x + dense(torch.cat(mixed, 1), state, f"{b}attn.out_proj")
        if f"{b}mlp.c_fc.weight" in state:
            y = nn.functional.gelu(dense(norm(x, state, f"{b}ln_2", 1e-5), state, f"{b}mlp.c_fc"))
            x = x + dense(y, state, f"{b}mlp.c_proj")
    return x


def test_a_pruned_tinyclip_computes_what_its_tensors_say(tmp_path):
    from support.models import norm

    state = pruned_state(None)
    wrapped = {f"{'image' if k.startswith('visual.') else 'text'}_encoder_without_ddp.{k}": v for k, v in state.items()}
    wrapped["_image_encoder.l0_module.heads_loga"] = torch.ones(3)
    torch.save({"state_dict": wrapped}, tmp_path / "auto.pt")
    built = family("clip").build(clip_row({"model": "auto.pt"}), tmp_path)
    assert built.layout == "pruned"
    ids = clip_ids()
    with torch.inference_mode():
        found = built.encode(PIXELS, ids)
    for j in range(3):
        patches = PIXELS[j].unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
        x = torch.cat([state["visual.class_embedding"][None], patches @ state["visual.conv1.weight"].flatten(1).T])
        x = norm(x + state["visual.positional_embedding"], state, "visual.ln_pre", 1e-5)
        image = norm(literal_tower(state, "visual.", x, False)[0], state, "visual.ln_post", 1e-5) @ state["visual.proj"]
        torch.testing.assert_close(found["image"][j], image, rtol=1e-4, atol=1e-5)
        x = state["token_embedding.weight"][ids[j]] + state["positional_embedding"]
        x = norm(literal_tower(state, "", x, True), state, "ln_final", 1e-5)
        text = x[int(ids[j].argmax())] @ state["text_projection"]
        torch.testing.assert_close(found["text"][j], text, rtol=1e-4, atol=1e-5)


def test_a_pruned_tinyclip_with_quick_gelu_is_refused(tmp_path):
    save_file(pruned_state(None), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="pruned TinyCLIP, which has exact GELU"):
        family("clip").build(clip_row({"model": "w.safetensors"}, quick_gelu=True), tmp_path)


@pytest.fixture(scope="module", params=["bert", "xlm-roberta"])
def vista(request, tmp_path_factory):
    """A tiny VISTA, base (BERT) or m3 (XLM-R), stored in the public layout and built from it."""
    from gcl.models.modules.vista import Vista

    folder = tmp_path_factory.mktemp("vista")
    config = VISTA if request.param == "bert" else {**VISTA, "text": M3_TEXT}
    model = randomised(Vista(config))
    state = public_vista(model)
    torch.save(state, folder / "vista.pth")
    word_tokenizer(folder / "tokenizer.json", request.param != "bert")
    row = vista_row("vista.pth", config, context=30)
    return family("vista").build(row, folder), state, config["text"], row, folder


TEXTS = ["w5 w6 w7", "w9", "w100 w3 w5 w8 w12 w250"]


def test_vista_equals_its_literal_form(vista):
    built, state, text, *_ = vista
    ids = torch.from_numpy(to_ids(built.tokenizer, TEXTS))
    with torch.inference_mode():
        found = built.encode(PIXELS, ids)
    for j, said in enumerate(TEXTS):
        plain = built.tokenizer.encode(said)
        own = [i for i, m in zip(plain.ids, plain.attention_mask, strict=True) if m]
        empty = built.tokenizer.encode("").ids[:2]
        for modality, tokens, pixels in (
            ("text", own, None),
            ("image", empty, PIXELS[j]),
            ("image_text", own, PIXELS[j]),
        ):
            expected = vista_vector(state, tokens, pixels, text, 2, 8)
            torch.testing.assert_close(found[modality][j], expected, rtol=0, atol=2e-6)


def test_vista_does_not_depend_on_padding(vista):
    built = vista[0]
    ids = torch.from_numpy(to_ids(built.tokenizer, TEXTS))
    with torch.inference_mode():
        together = built.encode(PIXELS, ids)
        for j in range(3):
            alone = built.encode(PIXELS[j : j + 1], torch.from_numpy(to_ids(built.tokenizer, TEXTS[j : j + 1])))
            for modality in together:
                torch.testing.assert_close(alone[modality][0], together[modality][j], rtol=0, atol=2e-6)


def test_an_image_with_the_empty_text_is_the_image(vista):
    built = vista[0]
    ids = torch.from_numpy(to_ids(built.tokenizer, ["", "", ""]))
    with torch.inference_mode():
        model = built.model
        torch.testing.assert_close(model.encode_fused(PIXELS, ids), model.encode_image(PIXELS), rtol=0, atol=1e-7)


def test_the_image_tokens_are_those_before_the_final_norm(vista):
    built, state, *_ = vista
    with torch.inference_mode():
        found = built.model.vision.forward_features(PIXELS)[:, 1:]
        expected = eva_tokens(state, PIXELS[0], 2, 8)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)
    scale, shift = (state[f"model_visual.visual.norm.{k}"] for k in ("weight", "bias"))
    normed = nn.functional.layer_norm(expected, expected.shape[-1:], scale, shift, 1e-6)
    assert (normed - found[0]).abs().max() > 0.1


def test_timms_own_conversion_gives_the_same_trunk(vista):
    """Our eight renames against those that timm has for EVA's checkpoints."""
    import timm
    from timm.models.eva import checkpoint_filter_fn

    built, state, *_ = vista
    config = {k: v for k, v in VISTA["vision"].items() if k != "timm_model_name"}
    trunk = timm.create_model(VISTA["vision"]["timm_model_name"], num_classes=0, **config).eval()
    theirs = checkpoint_filter_fn(
        {k.removeprefix("model_visual."): v for k, v in state.items() if k.startswith("model_visual.")}, trunk
    )
    trunk.load_state_dict({k: v for k, v in theirs.items() if not k.startswith("head.")}, strict=True)
    trunk.norm = nn.Identity()
    with torch.inference_mode():
        torch.testing.assert_close(trunk.forward_features(PIXELS), built.model.vision.forward_features(PIXELS))


def test_long_texts_beside_an_image_are_cut_and_still_end(vista):
    built, state, text, *_ = vista
    limit = built.model.fused_context(30)
    assert limit == 30  # 64 positions, 16 image tokens: the context is the tighter limit
    built.model.text.config.max_position_embeddings = 26
    try:
        ids = torch.from_numpy(to_ids(built.tokenizer, [" ".join(f"w{i}" for i in range(20)), "w1"]))
        with torch.inference_mode():
            found = built.encode(PIXELS[:2], ids)["image_text"]
        own = built.tokenizer.encode(" ".join(f"w{i}" for i in range(8))).ids[:10]
        torch.testing.assert_close(found[0], vista_vector(state, own, PIXELS[0], text, 2, 8), rtol=0, atol=2e-6)
    finally:
        built.model.text.config.max_position_embeddings = 64


def test_patch_dropout_acts_in_training_only(vista):
    from dataclasses import replace

    _, _, _, row, folder = vista
    config = {**row.model_cfg, "vision": {**row.model_cfg["vision"], "patch_drop_rate": 0.5}}
    built = family("vista").build(replace(row, model_cfg=config), folder)
    assert built.model.image_tokens(PIXELS).shape[1] == 16
    assert built.model.train().image_tokens(PIXELS).shape[1] == 8


def test_a_vista_of_another_shape_is_refused(vista):
    from dataclasses import replace

    *_, row, folder = vista
    config = {**row.model_cfg, "text": {**row.model_cfg["text"], "num_hidden_layers": 3}}
    with pytest.raises(ValueError, match=r"missing text.encoder.layer.2"):
        family("vista").build(replace(row, model_cfg=config), folder)


def test_a_vista_in_a_row_of_clip_is_refused(vista):
    *_, folder = vista
    with pytest.raises(ValueError, match="needs `family: vista`"):
        family("clip").build(clip_row({"model": "vista.pth"}), folder)


def test_layouts_are_told_apart(stored, vista):
    state = stored[1].state_dict()
    assert layout_of(state) == "open_clip"
    assert layout_of(hugging_face(state)) == "hugging face"
    assert layout_of(release(state)["state_dict"]) == "tinyclip"
    assert layout_of(vista[1]) == "vista"


@functools.cache
def open_clips_tokenizer():
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@functools.cache
def our_clip_tokenizer():
    return clip_tokenizer(77)


@given(st.lists(st.text(st.characters(max_codepoint=0x2FF, exclude_categories=["Cn", "Cs"]), max_size=120), max_size=4))
@settings(max_examples=200, deadline=None)
def test_the_clip_tokenizer_is_open_clips(texts):
    texts = [*texts, "A photo of  two &amp; a half cats, don't!", "x" * 500, "12345 naïve ½"]
    expected = open_clips_tokenizer()(texts).numpy()
    np.testing.assert_array_equal(to_ids(our_clip_tokenizer(), texts, "clip"), expected)


def test_score_fusion_is_the_documented_sum(stored):
    from gcl.train.recipe_loss import triplet

    folder, _ = stored
    built = family("clip").build(clip_row({"model": "release.pt"}), folder)
    with torch.inference_mode():
        raw = built.encode(PIXELS, clip_ids())
    i, t = raw["image"], raw["text"]
    expected = {"sum_raw": i + t, "sum_unit": normalize(i, dim=1) + normalize(t, dim=1)}
    for fusion, total in expected.items():
        vectors, mix = triplet(raw, fusion)
        torch.testing.assert_close(vectors, torch.stack([normalize(i, dim=1), normalize(t, dim=1)]))
        fused = (mix[:, :, None] * vectors).sum(0).float()
        torch.testing.assert_close(fused, normalize(total, dim=1))


COUNTS = {  # millions of weights, as published or counted in the released files
    "clip_b32": 151.28,
    "clip_l14": 427.62,
    "tinyclip_8m": 23.45,
    "tinyclip_39m": 83.10,
    "tinyclip_40m": 84.21,
    "tinyclip_61m": 115.38,
    "tinyclip_rn19m": 63.37,
    "tinyclip_rn30m": 83.82,
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_row_has_the_size_of_the_released_model(project, name):
    from gcl.models.clip import make, model_config

    with torch.device("meta"):
        model = make(model_config(project.backbones[name]))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(COUNTS[name], abs=0.005)


@pytest.mark.parametrize(("name", "vision", "image_tokens"), [("vista_base", 85.87, 196), ("vista_m3", 303.32, 256)])
def test_a_row_of_vista_has_the_size_of_the_released_trunk(project, name, vision, image_tokens):
    from gcl.models.modules.vista import Vista

    small = {**VISTA["text"], "hidden_size": 768 if name == "vista_base" else 1024, "max_position_embeddings": 512}
    with torch.device("meta"):
        model = Vista({**project.backbones[name].model_cfg, "text": small})
    assert sum(p.numel() for p in model.vision.parameters()) / 1e6 == pytest.approx(vision, abs=0.01)
    assert model.fused_context(512) == 512 - image_tokens
    assert model.visual_proj.weight.shape[0] == model.visual_proj.weight.shape[1]


@pytest.mark.parametrize(("height", "width", "grid"), [(5, 5, 3), (7, 5, 2), (4, 4, 4), (2, 3, 5)])
def test_pooling_as_a_product_is_adaptive_average_pooling(height, width, grid):
    features = torch.randn(2, 6, height, width, dtype=torch.float64)
    expected = torch.nn.functional.adaptive_avg_pool2d(features, grid).flatten(2)
    torch.testing.assert_close(features.flatten(2) @ pooling(height, width, grid).double(), expected, atol=1e-7, rtol=0)
