"""Text drawn on the canvas: the official function's canvases, the font's file, and the graphs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from gcl.common.errors import UserError
from gcl.config.backbones import Backbone, Preprocess
from gcl.export.export import export_graphs
from gcl.export.graphs import export_module
from gcl.infer.session import open_session
from gcl.models.modules.pixel import Pixel
from gcl.models.pixel import UNKNOWN, build, characters, glyph_table, graphs_of, read_font, towers
from gcl.models.tokenizers import to_ids
from support.training import pairs, trains_and_loads  # noqa: F401 - fixtures among them

HERE = Path(__file__).parent
BYTES = Preprocess(size=224, resize="squash", mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255))  # pixels are 0 to 255
TINY = {"vision": {"timm_model_name": "test_efficientnet"}}


@pytest.fixture(scope="module")
def official():
    """What VC2L's render_img_text_np.py (dd17dd62) made of these texts with these glyphs."""
    with safe_open(HERE / "vc2l_canvases.safetensors", "np") as file:
        texts = json.loads(file.metadata()["texts"])
        return {name: file.get_tensor(name) for name in file.keys()} | {"texts": texts}  # noqa: SIM118 - no mapping


@pytest.fixture
def font(official, tmp_path):
    path = tmp_path / "font.hex"
    path.write_bytes(official["font"].tobytes())
    return path


def model_of(font, how=BYTES, config=TINY):
    glyphs = read_font(font)
    known = sorted(glyphs)
    return Pixel(config, how, *glyph_table([glyphs[c] for c in known])).eval(), characters(known, 768)


def test_canvases_are_the_official_ones(official, font):
    model, tokenizer = model_of(font)
    for i, text in enumerate(official["texts"]):
        ids = torch.tensor([tokenizer.encode(text).ids])
        image = torch.full((1, 3, 224, 224), 200.0)
        for name, quadrants in (
            ("text", model.text_quadrants(ids, 4)),
            ("both", [image, *model.text_quadrants(ids, 3)]),
        ):
            canvas = model.canvas(quadrants)[0]
            ink = np.unpackbits(official[f"{name}{i}"]).reshape(448, 448).astype(bool)
            expected = np.where(ink, 0, 127)
            if name == "both":
                expected[:224, :224] = 200
            for channel in canvas.numpy():
                np.testing.assert_allclose(channel, expected, atol=1e-4)


def test_padding_and_other_texts_of_a_batch_change_nothing(official, font):
    model, tokenizer = model_of(font)
    texts = official["texts"]
    together = model.text_quadrants(torch.from_numpy(to_ids(tokenizer, texts)), 4)
    for i, text in enumerate(texts):
        alone = model.text_quadrants(torch.tensor([tokenizer.encode(text).ids]), 4)
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[i], b[0])


def test_case_and_characters_without_glyph(font):
    _, tokenizer = model_of(font)
    assert tokenizer.encode("HOUSE").ids == tokenizer.encode("house").ids
    assert tokenizer.encode("漢").ids == [tokenizer.token_to_id(UNKNOWN)]
    assert len(tokenizer.encode("a\nb").ids) == 3


def test_a_truetype_font_is_drawn(project, root):
    import matplotlib

    glyphs = read_font(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
    assert glyphs["a"].shape == (16, 16)
    assert glyphs["g"].any()
    assert not glyphs[" "].any()
    assert not np.array_equal(glyphs["a"], glyphs["b"])


@pytest.mark.parametrize("content", [b"", b"zz:00", b"0041:00", b"\x00\x01\x00\x00"])
def test_a_broken_font_is_named(tmp_path, content):
    for suffix in ("hex", "ttf"):
        path = tmp_path / f"font.{suffix}"
        path.write_bytes(content)
        if content or suffix == "ttf":
            with pytest.raises(UserError, match=f"font.{suffix}"):
                read_font(path)


def row(**more):
    how = Preprocess(size=32, resize="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    cfg = {**TINY, "embed_dim": 8, "in_order": False}
    values = {"family": "pixel", "model_cfg": cfg, "weights": {"image": "w/w.pth", "font": "w/font.hex"}}
    return Backbone(**(values | {"fusion": "native", "preprocess": how, "context": 40} | more))


@pytest.fixture
def built(font, tmp_path):
    (tmp_path / "w").mkdir()
    font.rename(tmp_path / "w/font.hex")
    trunk = Pixel(TINY, BYTES, np.zeros((2, 16, 16), np.uint8), np.zeros(2, np.int64)).trunk
    torch.save(trunk.state_dict(), tmp_path / "w/w.pth")
    return build(row(), tmp_path)


@pytest.mark.slow
def test_graphs_are_torchs(built, tmp_path):
    export_graphs(tmp_path, built.graphs(), built)  # refuses what disagrees with torch
    export_graphs(tmp_path, towers(built), built)


def test_an_image_s_own_output_joins_the_text(built, tmp_path):
    image, fused = (built.graphs()[name] for name in ("image", "image_text"))
    export_module(fused, tmp_path / "image_text.onnx")
    pixels = torch.randn(2, 3, 32, 32)
    ids = torch.from_numpy(to_ids(built.tokenizer, ["a house", "the dog and the fox"]))
    with torch.inference_mode():
        _, tokens = image.module(pixels)
        assert torch.equal(tokens, pixels)
        expected = built.model.encode_fused(pixels, ids).numpy()
    inputs = {"image_tokens": tokens.numpy(), "ids": ids.numpy()}
    found = open_session(tmp_path / "image_text.onnx", "cpu", 1).run(None, inputs)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_heads_follow_what_the_towers_give(built):
    with torch.inference_mode():
        of_towers = {name: graph.module(*graph.inputs.values()) for name, graph in towers(built).items()}
        whole = {name: g.module(*g.inputs.values()) for name, g in graphs_of(built.model, 32, 40).items()}
        for name, features in of_towers.items():
            features, vectors = (x[0] if isinstance(x, tuple) else x for x in (features, whole[name]))
            torch.testing.assert_close(torch.nn.functional.normalize(built.model.proj(features), dim=1), vectors)


@pytest.mark.parametrize("size", [16, 40])
def test_lines_must_fill_a_quadrant(tmp_path, size):
    how = Preprocess(size=size, resize="squash", mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(UserError, match="a size that is a multiple of 16"):
        build(row(preprocess=how), tmp_path)


def test_a_row_without_a_font_says_so(tmp_path):
    with pytest.raises(UserError, match="needs weights: font; it has .'image'."):
        build(row(weights={"image": "w/w.pth"}), tmp_path)


def test_whole_models_train_and_their_checkpoints_load(built, tmp_path, pairs):  # noqa: F811 - a fixture
    trains_and_loads(row(), "proj", pairs, tmp_path)
