"""Models as they are, through their own libraries, in the stages and the tables of ours."""

import json
import sys

import numpy as np
import pytest
import torch

from gcl.common.errors import UserError
from gcl.config.backbones import Backbone
from gcl.data.images import open_image
from gcl.data.records import fused_keys, read_parquet
from gcl.export.export import export
from gcl.infer import foreign
from gcl.infer.infer import infer
from gcl.models.encoder import describe
from gcl.prepare.prepare import prepare_pairs
from gcl.train.train import train
from support.models import TINYCLIP, clip_of_transformers, tinyclip
from support.training import recipe
from support.workflow import ROOT

OWN = '''
import numpy as np

class Own:
    """Colours and letters: six numbers of an image, of a text, or of both."""

    def __init__(self, scale=1.0):
        self.scale, self.calls = scale, 0

    def encode(self, images=None, texts=None):
        n = len(images if images is not None else texts)
        found = np.zeros((n, 6), np.float64)
        for row in range(n):
            if images is not None:
                found[row, :3] = np.asarray(images[row], np.float64).mean((0, 1)) / 255
            if texts is not None:
                found[row, 3:] = [texts[row].count(c) for c in "aei"]
        return self.scale * (found + 0.01)

    def bad(self):
        return [1]
'''


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    prepare_pairs(ROOT / "data/openclipart", "pictures", 0.0, 20, folder / "prepared")
    return folder / "prepared"


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_encoder.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_encoder:Own"
    sys.modules.pop("own_encoder", None)


def row(model, fusion="sum_unit", **options):
    return Backbone(family="encoder", model=model, fusion=fusion, model_cfg=options)


def made(backbone, prepared, folder, **more):
    """Through train, export and infer, as the rules run them."""
    nothing = (None,) * 6
    train("x", backbone, recipe(epochs=0), [0], prepared, folder, *nothing, "cpu", 1, folder / "checkpoints")
    export("all", "x", backbone, folder, folder / "checkpoints", None, folder / "onnx")
    infer(folder / "onnx/seed0", prepared, None, "cpu", 1, False, more.get("only_texts", False), (0, 1), folder / "out")
    return {path.stem: np.load(path) for path in (folder / "out").glob("*.npy")}


def contents(prepared):
    locations = read_parquet(prepared / "locations.parquet")["location"].to_pylist()
    return [*map(open_image, locations)], read_parquet(prepared / "texts.parquet")["text"].to_pylist()


@pytest.mark.parametrize("fusion", ["sum_unit", "native"])
def test_one_s_own_code_embeds_what_is_prepared(own, pairs, tmp_path, monkeypatch, fusion):
    monkeypatch.setattr(foreign, "CHUNK", 7)
    found = made(row(own, fusion, arguments={"scale": 2.0}, batch=3), pairs, tmp_path)
    images, texts = contents(pairs)
    from own_encoder import Own

    model = Own(2.0)
    np.testing.assert_allclose(found["image"], model.encode(images=images), rtol=1e-6)
    np.testing.assert_allclose(found["text"], model.encode(texts=texts), rtol=1e-6)
    assert ("image_text" in found) == (fusion == "native")
    if fusion == "native":
        keys = fused_keys(pairs)
        both = model.encode([images[i] for i, _ in keys], [texts[t] for _, t in keys])
        np.testing.assert_allclose(found["image_text"], both, rtol=1e-6)


def test_prompts_stand_before_the_texts(own, pairs, tmp_path):
    found = made(row(own, prompts={"text": "aaa "}), pairs, tmp_path)
    plain = np.array([[t.count(c) for c in "aei"] for t in contents(pairs)[1]])
    np.testing.assert_allclose(found["text"][:, 3:] - 0.01, plain + np.array([3, 0, 0]), atol=1e-5)


def test_a_stopped_run_goes_on(own, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "CHUNK", 5)
    calls = []

    def stop(model, images, texts, batch, pieces=foreign.pieces):
        calls.append(texts is None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return pieces(model, images, texts, batch)

    with monkeypatch.context() as patch:
        patch.setattr(foreign, "pieces", stop)
        with pytest.raises(KeyboardInterrupt):
            made(row(own), pairs, tmp_path)
    before = len(calls)
    calls.clear()
    monkeypatch.setattr(foreign, "pieces", lambda *a, p=foreign.pieces: calls.append(1) or p(*a))
    (tmp_path / "again").mkdir()
    infer(tmp_path / "onnx/seed0", pairs, None, "cpu", 1, False, False, (0, 1), tmp_path / "out")
    whole = made(row(own), pairs, tmp_path / "again")
    assert before == 4
    for name, array in whole.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"out/{name}.npy"), array)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return clip_of_transformers(tmp_path_factory.mktemp("clip"))


def test_a_clip_of_transformers(clip_folder, pairs, tmp_path):
    from transformers import CLIPModel, CLIPProcessor

    found = made(row(f"transformers:{clip_folder}", batch=4), pairs, tmp_path)
    images, texts = contents(pairs)
    model, processor = CLIPModel.from_pretrained(clip_folder).eval(), CLIPProcessor.from_pretrained(clip_folder)
    with torch.inference_mode():
        image = model.get_image_features(**processor(images=images[:3], return_tensors="pt"))
        text = model.get_text_features(**processor(text=texts[:1], truncation=True, return_tensors="pt"))
    image, text = (getattr(x, "pooler_output", x).numpy() for x in (image, text))
    np.testing.assert_allclose(found["image"][:3], image, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["text"][:1], text, rtol=0, atol=1e-5)
    assert found["image"].shape[1] == found["text"].shape[1] == 8


def test_a_model_of_open_clip(pairs, tmp_path):
    import open_clip

    folder = tmp_path / "tiny"
    folder.mkdir()
    model = tinyclip().eval()
    config = {"model_cfg": TINYCLIP,
              "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    found = made(row(f"open_clip:local-dir:{folder}"), pairs, tmp_path)
    _, texts = contents(pairs)
    with torch.inference_mode():
        ids = open_clip.get_tokenizer(f"local-dir:{folder}")(texts[:4])
        expected = model.encode_text(ids).numpy()
    np.testing.assert_allclose(found["text"][:4], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("no.such.module:x", {}, "can't open no.such.module:x"),
        ("own_encoder:None_", {}, "can't open own_encoder:None_"),
        ("own_encoder:Own", {"arguments": {"size": 3}}, "unexpected keyword argument 'size'"),
        ("own_encoder:dict", {}, "can't open own_encoder:dict"),
        ("builtins:dict", {}, r"gives dict, which has no encode\(images=, texts=\)"),
        ("sentence-transformers:/no/such/folder", {}, "can't open sentence-transformers:/no/such/folder"),
    ],
)
def test_what_can_not_be_opened_is_said(own, pairs, tmp_path, model, options, message):
    with pytest.raises(UserError, match=message):
        made(row(model, **options), pairs, tmp_path)


def test_what_answers_otherwise_is_said(own, pairs, tmp_path, monkeypatch):
    import own_encoder

    for number, answer in enumerate((np.zeros((2, 3)), np.zeros(4), np.full((1, 6), np.nan))):

        def wrong(self, images=None, texts=None, answer=answer):
            return answer if len(answer) != 1 else answer.repeat(len(images or texts), 0)

        monkeypatch.setattr(own_encoder.Own, "encode", wrong)
        with pytest.raises(UserError, match="expected|NaN"):
            made(row(own), pairs, tmp_path / str(number))


@pytest.mark.parametrize("model", [None, "sentence-transformers", "x:", ":x"])
def test_a_row_without_a_model_is_named(model):
    with pytest.raises(UserError, match="config/backbones.yaml: model is"):
        describe(row(model))


def test_it_is_not_trained(own, pairs, tmp_path):
    more = (*(None,) * 6, "cpu", 1, tmp_path / "checkpoints")
    with pytest.raises(UserError, match="is used as it is"):
        train("x", row(own), recipe(epochs=1), [0], pairs, tmp_path, *more)
