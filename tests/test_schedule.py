import json
from itertools import pairwise

import pytest
import torch

from gcl.config import Recipe
from gcl.schedule import learning_rate, weight_groups
from gcl.strict import parse, to_json


@pytest.fixture
def recipe(project):
    return parse(Recipe, {**json.loads(to_json(project.recipes["cl"])), "warmup": 0.1, "learning_rate": 1.0}, "x")


def test_the_rate_rises_over_the_warm_up_then_falls_to_zero(recipe):
    rates = [learning_rate(step, 100, recipe) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.001
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_only_matrices_decay():
    linear = torch.nn.Linear(3, 2)
    decaying, others = weight_groups(linear.parameters(), 0.1)
    assert (decaying["params"], decaying["weight_decay"]) == ([linear.weight], 0.1)
    assert (others["params"], others["weight_decay"]) == ([linear.bias], 0.0)
