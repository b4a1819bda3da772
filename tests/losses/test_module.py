"""GCLLoss in a loop of one's own: against gcl_loss, and on two processes against one."""

import os
import subprocess
import sys
from itertools import permutations

import pytest
import torch
from torch.nn.functional import normalize

from gcl import GCLLoss, gcl_loss
from gcl.common.arrays import MODALITIES
from gcl.common.errors import UserError
from gcl.losses.module import SIX

TWO = """
import sys, torch, torch.distributed as dist
from gcl import GCLLoss
dist.init_process_group("gloo")
data = torch.load(sys.argv[1], weights_only=True)
layer = torch.nn.Linear(6, 4).double()
layer.load_state_dict(data["layer"])
model = torch.nn.parallel.DistributedDataParallel(layer)
rank, part = dist.get_rank(), len(data["image"]) // 2
own = slice(rank * part, (rank + 1) * part)
ids = data["ids"][own] if "ids" in data else None
both = model(torch.cat([data["image"][own], data["text"][own]]))  # one call: DDP counts calls
loss = GCLLoss(denominator="no_self", temperature=0.1)(both[:part], both[part:], None, ids, ids)
loss.backward()
total = loss.detach()[None].clone()
dist.all_reduce(total)
if rank == 0:
    torch.save({"loss": total / 2, "gradient": layer.weight.grad}, sys.argv[2])
"""


def test_the_module_is_the_function_on_unit_vectors(rng):
    image, text = (torch.tensor(rng.normal(size=(5, 4)) * 3) for _ in range(2))
    i, x = normalize(image, dim=1), normalize(text, dim=1)
    vectors = {"image": i, "text": x, "image_text": normalize(i + x, dim=1)}
    for rule in ("full", "no_self", "no_self_no_copositive"):
        expected = gcl_loss(vectors, SIX, rule, 0.07)
        torch.testing.assert_close(GCLLoss(denominator=rule, temperature=0.07)(image, text), expected)
    native = torch.tensor(rng.normal(size=(5, 4)))
    expected = gcl_loss(vectors | {"image_text": normalize(native, dim=1)}, SIX, "no_self", 0.05)
    torch.testing.assert_close(GCLLoss()(image, text, native), expected)


def test_all_six_directions_weigh_alike_unless_told_otherwise(rng):
    assert {tuple(d.split(">")): weight for d, weight in SIX.items()} == dict.fromkeys(permutations(MODALITIES, 2), 1)
    image, text = (torch.tensor(rng.normal(size=(5, 4))) for _ in range(2))
    torch.testing.assert_close(GCLLoss()(image, text), GCLLoss(SIX)(image, text))


def test_a_learned_temperature_gets_a_gradient_and_is_clamped(rng):
    image, text = (torch.tensor(rng.normal(size=(5, 4))) for _ in range(2))
    loss = GCLLoss(learn_temperature=True)
    loss(image, text).backward()
    assert loss.logit_scale.grad is not None
    assert not GCLLoss().logit_scale.requires_grad
    loss.logit_scale.data.fill_(100)
    torch.testing.assert_close(loss(image, text), GCLLoss(temperature=0.01)(image, text))


def test_equal_images_are_no_negatives_of_each_other(rng):
    image, text = (torch.tensor(rng.normal(size=(4, 3))) for _ in range(2))
    same, other = torch.tensor([0, 0, 1, 2]), torch.arange(4)
    assert GCLLoss()(image, text, None, same, other) < GCLLoss()(image, text)


@pytest.mark.parametrize("ids", [None, [0, 1, 2, 0, 3, 4]])
def test_two_processes_have_the_loss_and_gradient_of_one(rng, tmp_path, ids):
    layer = torch.nn.Linear(6, 4).double()
    data = {name: torch.tensor(rng.normal(size=(6, 6))) for name in ("image", "text")} | {"layer": layer.state_dict()}
    data |= {"ids": torch.tensor(ids)} if ids else {}
    torch.save(data, tmp_path / "data.pt")
    (tmp_path / "two.py").write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    files = [str(tmp_path / name) for name in ("two.py", "data.pt", "found.pt")]
    done = subprocess.run([*command, *files], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    given, image, text = data.get("ids"), layer(data["image"]), layer(data["text"])
    loss = GCLLoss(denominator="no_self", temperature=0.1)(image, text, None, given, given)
    loss.backward()
    torch.testing.assert_close(found["loss"][0], loss.detach())
    torch.testing.assert_close(found["gradient"], layer.weight.grad)


def test_a_second_derivative_is_refused(rng):
    """It would come out wrong: the gradient is in closed form and has no graph of its own."""
    vectors = normalize(torch.tensor(rng.normal(size=(3, 4, 5))), dim=2).requires_grad_()
    loss = gcl_loss(vectors, SIX, "no_self", 0.1).square()  # so that what comes from above has a graph
    (gradient,) = torch.autograd.grad(loss, vectors, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 3), torch.ones(3, 3)), r"vectors of shapes \[\(2, 3\), \(3, 3\)\], expected \(N, D\)"),
        ((torch.ones(2, 3), torch.ones(2, 3), None, torch.arange(2)), "give image_ids and text_ids, or neither"),
    ],
)
def test_what_does_not_fit_is_said(arguments, message):
    with pytest.raises(UserError, match=message):
        GCLLoss()(*arguments)
