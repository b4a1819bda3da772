"""A model folder in sentence-transformers: single kinds, both together, and mixed lists."""

import shutil

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer

import gcl
from gcl.common.errors import UserError
from gcl.export.publish import write_sentence_folder
from gcl.export.sentence_module import parts_of, write_folder
from gcl.prepare.prepare import prepare_pairs
from support.training import exported


@pytest.fixture(scope="module", params=["clip", "vista"])
def folder(request, tmp_path_factory, root):
    place = tmp_path_factory.mktemp("model")
    prepare_pairs(root / "data/openclipart", "pictures", 0.0, 10, place / "prepared")
    model = exported(request.param, place, place / "prepared")
    write_folder(model)
    return model


@pytest.fixture(scope="module")
def pictures():
    return [Image.fromarray(np.random.default_rng(k).integers(0, 255, (20, 30, 3), np.uint8)) for k in range(3)]


def test_every_kind_of_item_has_the_model_s_vector(folder, pictures, tmp_path):
    theirs, ours = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu"), gcl.load(folder, "cpu")
    assert theirs.get_embedding_dimension() == ours.width
    texts = ["a cat", "two dogs", "x"]
    both = [{"image": image, "text": text} for image, text in zip(pictures, texts, strict=True)]
    pictures[0].save(tmp_path / "a.png")
    for items, expected in (
        (texts, ours.encode(texts=texts)),
        (pictures, ours.encode(images=pictures)),
        (both, ours.encode(images=pictures, texts=texts)),
        (
            [texts[0], pictures[1], both[2], str(tmp_path / "a.png")],
            ours.encode(images=[None, pictures[1], pictures[2], pictures[0]], texts=[texts[0], None, texts[2], None]),
        ),
    ):
        np.testing.assert_allclose(theirs.encode(items), expected, rtol=0, atol=1e-5)
    prompted = theirs.encode(texts, prompt="find ")
    np.testing.assert_allclose(prompted, ours.encode(texts=[f"find {text}" for text in texts]), rtol=0, atol=1e-5)


def test_it_is_saved_and_opened_again(folder, tmp_path):
    model = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    before = model.encode(["a cat"])
    model.save(str(tmp_path / "again"))
    shutil.rmtree(tmp_path / "again/1_Pooling", ignore_errors=True)
    again = SentenceTransformer(str(tmp_path / "again"), trust_remote_code=True, device="cpu")
    np.testing.assert_array_equal(again.encode(["a cat"]), before)


def test_messages_and_what_is_no_item():
    message = {"role": "user", "content": [{"type": "image", "image": "x"}, {"type": "text", "text": "a"}]}
    assert parts_of([message]) == ("x", "a")
    assert parts_of({"role": "user", "content": "a"}) == (None, "a")
    with pytest.raises(UserError, match="an item is 3"):
        parts_of(3)
    with pytest.raises(UserError, match="a message of one image"):
        parts_of([message, message])


def test_a_model_of_several_vectors_an_item_is_none_of_its(tmp_path):
    folder = tmp_path / "onnx/mine/cl/seed0"
    folder.mkdir(parents=True)
    (folder / "export.json").write_text('{"kind": "heads", "late": 4}')
    with pytest.raises(UserError, match="mine has 4 vectors an item, which sentence-transformers compares as one"):
        write_sentence_folder({}, tmp_path, "mine", "cl", 0, "", tmp_path / "out")
    assert not (tmp_path / "out").exists()
