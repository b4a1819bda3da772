"""VISTA with fewer image tokens, and trained with several numbers of them (MME, arXiv 2502.12799)."""

from dataclasses import replace

import pytest
import torch

from gcl.common.errors import UserError
from gcl.models import family
from gcl.train.full import drawn
from support.models import tiny_vista
from support.training import close, pairs, recipe, row, run, weights  # noqa: F401 - fixtures among them

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A tiny VISTA on a ViT of 4 x 4 patches."""
    folder = tmp_path_factory.mktemp("vista")
    return folder, tiny_vista(folder)


def built(stored, **vision):
    folder, row = stored
    return (
        family("vista")
        .build(replace(row, model_cfg=row.model_cfg | {"vision": row.model_cfg["vision"] | vision}), folder)
        .model
    )


def test_as_many_tokens_as_patches_are_the_patches(stored):
    with torch.inference_mode():
        whole, same = built(stored).image_tokens(PIXELS), built(stored, grid=4).image_tokens(PIXELS)
    torch.testing.assert_close(same, whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_tokens_are_means_of_cells(stored, grid):
    model = built(stored, grid=grid)
    with torch.inference_mode():
        patches = model.vision.forward_features(PIXELS)[:, 1:]
        found = model.image_tokens(PIXELS)
        assert found.shape[1] == grid**2
        for row in range(grid):
            for column in range(grid):
                inside = [
                    4 * y + x
                    for y in range(row * 4 // grid, -(-(row + 1) * 4 // grid))
                    for x in range(column * 4 // grid, -(-(column + 1) * 4 // grid))
                ]
                mean = sum(patches[:, place] for place in inside) / len(inside)
                expected = model.visual_proj(mean)
                torch.testing.assert_close(found[:, grid * row + column], expected, atol=1e-5, rtol=0)


def test_the_number_can_be_set_and_must_be_a_square(stored):
    model = built(stored)
    plain = model.fused_context(64)
    model.set_image_tokens(4)
    assert model.image_tokens(PIXELS).shape[1] == 4
    assert model.fused_context(64) == min(64, plain + 12)
    with pytest.raises(UserError, match="image_tokens: 8: expected a square number"):
        model.set_image_tokens(8)


def test_the_draw_depends_on_seed_and_step_alone():
    draws = [drawn([1, 9, 25], seed, step) for seed in range(3) for step in range(100)]
    assert draws == [drawn([1, 9, 25], seed, step) for seed in range(3) for step in range(100)]
    assert {*draws} == {1, 9, 25}
    assert min(draws.count(choice) for choice in (1, 9, 25)) > 70


def test_training_with_several_numbers(pairs, weights, tmp_path):  # noqa: F811
    backbone = tiny_vista(tmp_path)
    several = recipe({"image_tokens": [1, 4, 16]}, epochs=2)
    first, curve = run(backbone, several, pairs, tmp_path, tmp_path / "several")
    again, same = run(backbone, several, pairs, tmp_path, tmp_path / "again")
    assert curve == same
    close(first, again, 0)
    one, _ = run(backbone, recipe({"image_tokens": [16]}, epochs=2), pairs, tmp_path, tmp_path / "one")
    plain, _ = run(backbone, recipe(epochs=2), pairs, tmp_path, tmp_path / "plain")
    close(one, plain, 1e-4)  # sixteen cells of one patch each
    assert any(not torch.equal(first[key], plain[key]) for key in plain)
    with pytest.raises(UserError, match="image_tokens is for family vista, not clip"):
        run(row(), several, pairs, weights, tmp_path / "clip")
