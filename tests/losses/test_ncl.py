"""NCL's loss against a loop, and its biases' sums."""

import math

import pytest
import torch

from gcl.common.errors import UserError
from gcl.config.recipes import Loss
from gcl.losses.ncl import ncl_loss, sinkhorn_biases
from gcl.train.recipe_loss import recipe_loss, triplet


@pytest.fixture
def vectors():
    torch.manual_seed(0)
    return [torch.nn.functional.normalize(torch.randn(7, 5, dtype=torch.float64), dim=1) for _ in range(2)]


def test_rows_and_columns_of_the_balanced_matrix_sum_to_one(vectors):
    logits = vectors[0] @ vectors[1].T / 0.2
    logits[2, 3] = logits[3, 2] = -torch.inf
    rows, columns = sinkhorn_biases(logits, 200)
    balanced = (logits + rows[:, None] + columns).exp()
    torch.testing.assert_close(balanced.sum(0), torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(balanced.sum(1), torch.ones(7, dtype=torch.float64))


def literal(image, text, t, masked):
    n = len(image)
    s = [[float(image[j] @ text[k]) / t for k in range(n)] for j in range(n)]
    shown = [[(j, k) not in masked and (k, j) not in masked for k in range(n)] for j in range(n)]
    u, v = [0.0] * n, [0.0] * n
    for _ in range(10):
        u = [-math.log(sum(math.exp(s[j][k] + v[k]) for k in range(n) if shown[j][k])) for j in range(n)]
        v = [-math.log(sum(math.exp(s[j][k] + u[j]) for j in range(n) if shown[j][k])) for k in range(n)]
    total = 0.0
    for j in range(n):
        across = sum(math.exp(s[j][k] + v[k]) for k in range(n) if shown[j][k])
        down = sum(math.exp(s[k][j] + u[k]) for k in range(n) if shown[k][j])
        total -= s[j][j] + v[j] - math.log(across) + s[j][j] + u[j] - math.log(down)
    return total / (2 * n)


@pytest.mark.parametrize("masked", [[], [(1, 4), (0, 5)]])
def test_the_loss_is_that_of_a_loop(vectors, masked):
    pairs = torch.tensor(masked).T if masked else None
    found = ncl_loss(*vectors, 0.1, pairs)
    assert found.item() == pytest.approx(literal(*vectors, 0.1, masked), abs=1e-10)
    parts = [ncl_loss(*vectors, 0.1, pairs, part) for part in (slice(0, 3), slice(3, 7))]
    assert sum(parts).item() == pytest.approx(found.item(), abs=1e-12)


def test_a_text_that_is_near_all_images_weighs_less(vectors):
    image, text = vectors
    near_all = text.clone()
    near_all[0] = torch.nn.functional.normalize(image.sum(0), dim=0)
    _, columns = sinkhorn_biases(image @ near_all.T / 0.05)
    assert columns[0] < columns[1:].median()


def test_a_recipe_asks_for_it_in_cl_alone(vectors):
    units = triplet({"image": vectors[0], "text": vectors[1]}, "sum_raw")
    cl = {"directions": {"image>text": 1, "text>image": 1}, "denominator": "target_only", "temperature": 0.1}
    found = recipe_loss(units, Loss(**cl, balanced=True), 0.1, None, None)
    assert found.item() == pytest.approx(ncl_loss(*vectors, 0.1, None).item())
    with pytest.raises(UserError, match="loss.balanced is for image>text and text>image with target_only"):
        recipe_loss(units, Loss(**cl | {"denominator": "full"}, balanced=True), 0.1, None, None)
