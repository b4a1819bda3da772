import json
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from gcl.common.rows import parse, to_json
from gcl.config.recipes import Recipe
from gcl.train.optimizer import Steps, learning_rate, weight_groups


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


def test_a_step_is_that_of_torchs_adamw_to_the_last_bit(recipe):
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    steps = Steps(ours.parameters(), recipe, 10, "x")
    peer = torch.optim.AdamW(weight_groups(theirs.parameters(), recipe.weight_decay), fused=True)
    for step in range(12):
        steps.begin()
        peer.zero_grad()
        for group in peer.param_groups:
            group["lr"] = learning_rate(step, steps.total, recipe)
        x = torch.randn(6, 5)
        for model in (ours, theirs):  # one layer has a gradient, then the other
            model[step % 2](x[:, : 5 - step % 2]).square().sum().backward()
        steps.end(1.0, 0)
        peer.step()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(mine, other)


def test_a_step_does_not_import_the_compiler():
    """It takes a second in each of the demo's trainings."""
    code = """
import sys, types, torch, gcl.train.optimizer
layer = torch.nn.Linear(2, 2)
recipe = types.SimpleNamespace(epochs=1, max_steps=None, warmup=0.0, learning_rate=1.0, weight_decay=0.1)
steps = gcl.train.optimizer.Steps(layer.parameters(), recipe, 1, "x")
before = layer.weight.clone()
steps.begin()
layer(torch.ones(1, 2)).sum().backward()
steps.end(1.0, 0)
assert not torch.equal(layer.weight, before)
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
