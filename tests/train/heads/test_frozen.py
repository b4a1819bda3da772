"""Heads on frozen features: widths that are trained for, and that are kept."""

from dataclasses import replace

import numpy as np
import pytest

from gcl.common.errors import UserError
from gcl.config.recipes import Recipe
from gcl.losses.gcl import gcl_loss
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
