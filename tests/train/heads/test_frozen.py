"""Heads on frozen features: widths that are trained for, and that are kept."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gcl.common.errors import UserError
from gcl.config.recipes import Recipe
from gcl.losses.gcl import gcl_loss
from gcl.train.heads.frozen import batches, read_features
from gcl.train.heads.head import apply_folded
from gcl.train.recipe_loss import triplet
from support.heads import CL, KEYS, PAIRS, WIDTH, heads, made_up


@pytest.fixture(scope="module")
def data():
    return made_up()


def loss_at(data, state, width):
    outputs = {m: apply_folded(KEYS[m], state, x) for m, x in (("image", data.images[:PAIRS]), ("text", data.text))}
    units = triplet({m: x[:, :width] for m, x in outputs.items()}, "sum_raw")
    return gcl_loss(units.vectors, CL.directions, CL.denominator, 0.1, None, None, units.mix).item()


def test_widths_are_trained_for_and_kept(data):
    plain = Recipe(loss=CL, epochs=40, batch_size=32, learning_rate=5e-3)
    state, _ = heads(data, plain)
    nested, _ = heads(data, replace(plain, loss=replace(CL, widths=[2, 4])))
    assert loss_at(data, nested, 2) < 0.9 * loss_at(data, state, 2)
    cut, _ = heads(data, replace(plain, epochs=0, width=2), nested)
    assert {cut[KEYS[m].second].shape[0] for m in KEYS} == {2}
    assert loss_at(data, cut, 2) == pytest.approx(loss_at(data, nested, 2), rel=1e-4)


@pytest.mark.parametrize("change", [{"width": WIDTH}, {"loss": replace(CL, widths=[4, 99])}])
def test_a_width_that_a_head_has_not_is_refused(data, change):
    with pytest.raises(UserError, match=r"width (16|99): expected less than the 16 outputs"):
        heads(data, replace(Recipe(loss=CL, epochs=1, batch_size=32, learning_rate=1e-3), **change))


def test_the_loss_is_the_mean_over_the_widths(data):
    whole = Recipe(loss=replace(CL, widths=[2, 4]), epochs=1, batch_size=PAIRS, learning_rate=1e-3)
    start, _ = heads(data, replace(whole, epochs=0))
    _, (line,) = heads(data, whole, start)
    assert line["loss"] == pytest.approx(np.mean([loss_at(data, start, width) for width in (2, 4, WIDTH)]), rel=1e-4)


IMAGE_ROWS, TEXT_ROWS = [1, 0, 1, 2, 0], [[0, 1], [2], [3], [1, 0, 4], [4, 2]]


@pytest.fixture
def several(tmp_path):
    """Pairs that share images and captions; a feature says of what it is: image i, 10 + i mirrored; text t; both i.t"""
    columns = {"pair_id": [*"abcde"], "image_row": IMAGE_ROWS, "text_rows": TEXT_ROWS}
    pq.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    together = sorted({(i, t) for i, own in zip(IMAGE_ROWS, TEXT_ROWS, strict=True) for t in own})
    arrays = {"image": range(3), "image_flipped": range(10, 13), "text": range(5)}
    for name, values in (arrays | {"image_text": [i + t / 10 for i, t in together]}).items():
        np.save(tmp_path / f"{name}.npy", np.array(values, np.float32)[:, None])
    return read_features(tmp_path, tmp_path, None)


def seen_in(data, epochs, **options):
    """What batches show: (pair's image, is it mirrored, caption), once for each time."""
    recipe = Recipe(loss=CL, epochs=epochs, learning_rate=1e-3, **options)
    generator, seen = torch.Generator().manual_seed(0), []
    for _ in range(epochs):
        for batch in batches(data, recipe, generator):
            assert len(batch.image_ids) == recipe.batch_size
            columns = (batch.features[m][:, 0].tolist() for m in ("image", "text", "image_text"))
            for image, text, both, own, caption in zip(*columns, batch.image_ids, batch.text_ids, strict=True):
                assert (image % 10, text) == (own, caption)
                assert both == pytest.approx(own + caption / 10)
                seen.append((int(own), image >= 10, int(caption)))
    return seen


def test_an_epoch_shows_every_pair_once_with_one_of_its_captions(several):
    for size, shown in ((5, 5), (2, 4)):  # what does not fill a batch waits
        images = Counter(image for image, *_ in seen_in(several, 1, batch_size=size))
        assert sum(images.values()) == shown
        assert not images - Counter(IMAGE_ROWS)
    seen = Counter(seen_in(several, 3000, batch_size=5))
    pairs_with = Counter()
    for image, own in zip(IMAGE_ROWS, TEXT_ROWS, strict=True):
        for caption in own:
            pairs_with[image, caption] += 1 / len(own)
    for (image, caption), share in pairs_with.items():
        for is_mirrored in (False, True):
            assert seen[image, is_mirrored, caption] / 3000 == pytest.approx(share / 2, abs=0.04)
    assert not any(mirrored for _, mirrored, _ in seen_in(several, 20, batch_size=5, flip=False))


def test_features_of_fewer_images_are_refused(several, tmp_path):
    np.save(tmp_path / "image.npy", np.zeros((2, 1), np.float32))
    with pytest.raises(UserError, match="has 2 images, the pairs name row 2; run `infer` again"):
        read_features(tmp_path, tmp_path, None)
