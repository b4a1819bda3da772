"""Training of whole models: exact gradients from chunks and ranks, resume after a kill, checkpoints others load."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gcl.common.arrays import MODALITIES
from gcl.common.errors import UserError
from gcl.losses.gcl import duplicates, gcl_loss, separation_loss
from gcl.losses.tiled import TILES
from gcl.models import family
from gcl.models.weights.checkpoints import read_about
from gcl.models.weights.model_card import card
from gcl.train.batches import Order, crop_box
from gcl.train.recipe_loss import triplet
from gcl.train.train import Paths
from support.models import tiny_vista
from support.training import CL, SIX, close, command, pairs, recipe, row, run, weights  # noqa: F401 - fixtures among them


def losses(curve):
    return [float(line.split(",")[2]) for line in curve.splitlines()[1:]]


@pytest.mark.parametrize("loss", [{"directions": CL, "denominator": "target_only"}, {}], ids=["cl", "gcl"])
def test_full_training_lowers_the_loss(pairs, weights, tmp_path, loss):
    _, curve = run(row(), recipe(loss=loss, epochs=16, flip=False), pairs, weights, tmp_path / "out")
    found = losses(curve)
    assert np.mean(found[-5:]) < 0.8 * np.mean(found[:5])


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_chunks_give_the_plain_step(pairs, weights, tmp_path, chunk):
    # Of the weights only gradients are compared, below: Adam turns a rounding near zero into a whole step.
    _, curve = run(row(), recipe(max_steps=2), pairs, weights, tmp_path / "plain")
    _, other = run(row(), recipe({"chunk": chunk}, max_steps=2), pairs, weights, tmp_path / "chunked")
    np.testing.assert_allclose(losses(other), losses(curve), atol=2e-6)


def gradients(backbone, plan, pairs, data, chunk=None, dropout=0.0):
    """The gradient of one step at the initial weights."""
    from gcl.train.batches import Loader
    from gcl.train.distributed import Rank
    from gcl.train.full import chosen_weights, make_task
    from gcl.train.grad_cache import accumulate

    built = family(backbone.family).build(backbone, data)
    for module in built.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    built.model.train()
    chosen = chosen_weights(built.model, plan, "x")
    paths = Paths(pairs, data, None, None, None, None, None, "cpu", 1)
    task = make_task(built, backbone, plan, Rank(0, 1, torch.device("cpu")), paths, chosen)._replace(chunk=chunk)
    batch = next(Loader(pairs, plan, built, 0, slice(0, plan.batch_size), 1).steps(0, 1))
    value, _ = accumulate(task, batch, 0, 0)
    return value, {k: v.grad.clone() for k, v in built.model.named_parameters() if v.requires_grad}


@pytest.mark.parametrize("chunk", [1, 3])
def test_gradients_of_chunks_are_those_of_the_whole_batch(pairs, weights, chunk):
    plan = recipe(loss={"temperature": "learned"})
    value, expected = gradients(row(), plan, pairs, weights)
    other, found = gradients(row(), plan, pairs, weights, chunk)
    assert other == pytest.approx(value, abs=1e-6)
    assert "logit_scale" in found
    close(found, expected, 1e-6)


def test_chunks_see_the_same_dropout_when_they_are_encoded_again(pairs, weights, tmp_path):
    """With dropout the gradient of chunks must be that of the vectors whose loss was taken."""
    backbone, plan = tiny_vista(tmp_path), recipe(loss={"temperature": 0.02})
    first = gradients(backbone, plan, pairs, tmp_path, chunk=2, dropout=0.3)
    again = gradients(backbone, plan, pairs, tmp_path, chunk=2, dropout=0.3)
    assert first[0] == again[0]
    close(first[1], again[1], 0)
    # The loss as a function of the weights, with the random numbers held: a finite difference along the gradient.
    from gcl.train.batches import Loader
    from gcl.train.grad_cache import seeded
    from gcl.train.recipe_loss import UnitVectors, joined, recipe_loss

    built = family("vista").build(backbone, tmp_path)
    for module in built.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    built.model.train()
    batch = next(Loader(pairs, plan, built, 0, slice(0, 8), 1).steps(0, 1))

    def value(step):
        with torch.no_grad():
            for key, weight in built.model.named_parameters():
                if key in first[1]:
                    weight.add_(first[1][key], alpha=step)
            parts = []
            for start in range(0, 8, 2):
                seeded(0, 0, start)
                part = slice(start, start + 2)
                parts.append(triplet(built.encode(batch.pixels[part], batch.ids[part]), "native"))
            same = duplicates(batch.image_ids, batch.text_ids)
            units = joined(parts)
            found = recipe_loss(UnitVectors(units.vectors.double(), units.mix), plan.loss, 0.02, same, None).item()
            for key, weight in built.model.named_parameters():
                if key in first[1]:
                    weight.sub_(first[1][key], alpha=step)
        return found

    square = sum(float((g.double() ** 2).sum()) for g in first[1].values())
    step = 1e-3 / math.sqrt(square)
    assert (value(step) - value(-step)) / (2 * step) == pytest.approx(square, rel=0.02)


@pytest.mark.parametrize("tile", [2, 512])
@pytest.mark.parametrize("fusion", ["native", "sum_raw"])
def test_rows_of_the_loss_add_up(rng, tile, fusion, monkeypatch):
    monkeypatch.setitem(TILES, "cpu", tile)
    raw = {m: torch.from_numpy(rng.normal(size=(12, 5))) for m in MODALITIES}
    unit, mix = triplet(raw, fusion)
    image_ids, text_ids = torch.arange(12) // 2, torch.arange(12)
    for rule in ("full", "no_self", "no_self_no_copositive", "cross_only", "target_only"):
        whole = unit.clone().requires_grad_()
        gcl_loss(whole, SIX, rule, 0.1, duplicates(image_ids, text_ids), None, mix).backward()
        parts = unit.clone().requires_grad_()
        total = 0.0
        for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
            loss = gcl_loss(parts, SIX, rule, 0.1, duplicates(image_ids, text_ids), part, mix)
            loss.backward()
            total += loss.item()
        expected = gcl_loss(unit, SIX, rule, 0.1, duplicates(image_ids, text_ids), None, mix).item()
        assert total == pytest.approx(expected)
        torch.testing.assert_close(parts.grad, whole.grad)


@pytest.mark.parametrize("rule", ["full", "no_self", "no_self_no_copositive", "cross_only", "target_only"])
def test_the_gradient_of_the_scale_is_that_of_autograd(rng, rule):
    unit = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(3, 9, 4))), dim=2)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    gcl_loss(unit, SIX, rule, (-scale).exp()).backward()
    step = 1e-6
    high, low = (gcl_loss(unit, SIX, rule, math.exp(-2.0 - s)).item() for s in (step, -step))
    assert scale.grad.item() == pytest.approx((high - low) / (2 * step), rel=1e-6)


def test_separation_is_the_literal_formula(rng):
    image, text = (torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(7, 4))), dim=1) for _ in range(2))
    said = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(7, 3))), dim=1)
    distance = 1 - said @ said.T
    expected = 0.0
    for one, other in ((image, text), (text, image)):
        for j in range(7):
            logits = [
                float(one[j] @ one[k]) * float(distance[j, k]) / 0.1 if k != j else float(one[j] @ other[j]) / 0.1
                for k in range(7)
            ]
            expected += math.log(sum(map(math.exp, logits))) - logits[j]
    assert separation_loss(image, text, distance, 0.1).item() == pytest.approx(expected / 14)
    parts = [separation_loss(image, text, distance[p], 0.1, p) for p in (slice(0, 3), slice(3, 7))]
    assert sum(parts).item() == pytest.approx(expected / 14)


def test_two_processes_give_the_model_of_one(pairs, weights, tmp_path):
    plan = recipe({"chunk": 2}, max_steps=3, loss={"temperature": "learned"})
    one, curve = run(row(), plan, pairs, weights, tmp_path / "one")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*start, *command(row(), plan, pairs, weights, tmp_path / "two")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = load_file(tmp_path / "two/seed0/open_clip_model.safetensors")
    np.testing.assert_allclose(losses((tmp_path / "two/seed0/curve.csv").read_text()), losses(curve), atol=2e-6)
    close(two, one, 2e-4)  # three steps of Adam at 1e-3


def test_a_batch_that_processes_can_not_share_is_refused():
    from gcl.train.distributed import Rank, part_of

    assert part_of(Rank(1, 2, torch.device("cpu")), 8) == slice(4, 8)
    with pytest.raises(ValueError, match="batch_size 9 can't be shared evenly by 2 processes"):
        part_of(Rank(0, 2, torch.device("cpu")), 9)


def test_a_killed_training_goes_on_to_the_same_bytes(pairs, weights, tmp_path):
    plan = recipe({"save_every": 3}, epochs=6)
    whole, start = (
        [sys.executable, "-m", *command(row(), plan, pairs, weights, tmp_path / name, "--workers", "2")]
        for name in ("whole", "cut")
    )
    subprocess.run(whole, check=True, stderr=subprocess.DEVNULL)
    start += ["--resume", str(tmp_path / "resume")]
    process = subprocess.Popen(start, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "resume/seed0.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(np.random.default_rng().uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut").exists()
    assert (tmp_path / "resume/seed0.pt").exists()
    done = subprocess.run(start, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "going on after step" in done.stderr
    for name in ("open_clip_model.safetensors", "curve.csv"):
        assert (tmp_path / "cut/seed0" / name).read_bytes() == (tmp_path / "whole/seed0" / name).read_bytes()
    assert not (tmp_path / "resume").exists()


def test_the_state_of_another_recipe_is_left_alone(pairs, weights, tmp_path, caplog):
    from gcl.train.full import State
    from gcl.train.optimizer import Steps

    model = torch.nn.Linear(2, 2)
    steps = Steps(model.parameters(), recipe(), 5, "x")
    steps.curve.append({"step": 0})
    State(tmp_path, 0, "one").save(model, steps)
    other = Steps(model.parameters(), recipe(), 5, "x")
    State(tmp_path, 0, "two").restore(model, other, torch.device("cpu"))
    assert not other.curve
    assert "of another recipe or other data" in caplog.text
    (tmp_path / "seed0.pt").write_bytes(b"half a file")
    State(tmp_path, 0, "one").restore(model, other, torch.device("cpu"))
    assert not other.curve
    assert "starting anew" in caplog.text


def test_open_clip_loads_a_checkpoint_in_one_line(pairs, weights, tmp_path):
    import open_clip

    expected, _ = run(row(), recipe(max_steps=1), pairs, weights, tmp_path / "out")
    model, _, look = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/out/seed0", require_pretrained=True)
    close({k: v.detach() for k, v in model.state_dict().items()}, expected, 0)
    assert look.transforms[0].size == 32
    assert open_clip.get_tokenizer(f"local-dir:{tmp_path}/out/seed0")(["a cat"]).shape == (1, 77)
    text = card(read_about(tmp_path / "out/seed0", "tiny"), "open_clip", "title")
    assert "library_name: open_clip" in text
    assert "denominator no_self, temperature 0.05" in text


def test_a_checkpoint_of_vista_loads_as_its_card_says(pairs, tmp_path):
    backbone = tiny_vista(tmp_path)
    expected, _ = run(backbone, recipe(max_steps=1), pairs, tmp_path, tmp_path / "out")
    text = card(read_about(tmp_path / "out/seed0", "tiny"), "vista", "title")
    code = text.split("```python\n")[1].split("```")[0].replace("PATH/TO/THIS/FOLDER", str(tmp_path / "out/seed0"))
    scope = {}
    exec(code, scope)  # noqa: S102
    close({k: v.detach() for k, v in scope["model"].state_dict().items()}, expected, 0)


def test_only_the_chosen_layers_move(pairs, weights, tmp_path):
    before = load_file(weights / "tiny.safetensors")
    after, _ = run(row(), recipe(trainable=["visual.proj", "ln_final"], max_steps=2), pairs, weights, tmp_path / "out")
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved == {"visual.proj", "ln_final.weight", "ln_final.bias"}
    with pytest.raises(ValueError, match="no weight's name begins with 'visual.head'"):
        run(row(), recipe(trainable=["visual.head"]), pairs, weights, tmp_path / "x")


def test_no_epoch_leaves_the_public_weights(pairs, weights, tmp_path):
    found, curve = run(row(), recipe(epochs=0), pairs, weights, tmp_path / "out")
    close(found, load_file(weights / "tiny.safetensors"), 0)
    assert curve == "step,epoch,loss,learning_rate,duplicates\n"


def test_a_learned_scale_is_clamped_and_a_given_one_stays(pairs, weights, tmp_path):
    found, curve = run(
        row(), recipe(loss={"temperature": "learned"}, max_steps=3, learning_rate=0.5), pairs, weights, tmp_path / "a"
    )
    assert 0 <= found["logit_scale"].item() <= math.log(100) + 1e-6
    assert "temperature" in curve.splitlines()[0]
    fixed, _ = run(row(), recipe(max_steps=2), pairs, weights, tmp_path / "b")
    assert fixed["logit_scale"] == load_file(weights / "tiny.safetensors")["logit_scale"]


@pytest.mark.parametrize(
    "full",
    [{"precision": "amp_bf16"}, {"grad_checkpointing": True}, {"crop": 0.8}],
    ids=["bf16", "checkpointing", "crop"],
)
def test_options_train(pairs, weights, tmp_path, full):
    _, curve = run(row(), recipe(full, epochs=6), pairs, weights, tmp_path / "out")
    found = losses(curve)
    assert np.mean(found[-5:]) < 0.85 * np.mean(found[:5])
    if "grad_checkpointing" in full:
        _, plain = run(row(), recipe(max_steps=2), pairs, weights, tmp_path / "plain")
        assert losses(plain)[0] == pytest.approx(found[0], abs=1e-6)


@pytest.mark.slow
def test_compiled_towers_train(pairs, weights, tmp_path):
    _, plain = run(row(), recipe(max_steps=3), pairs, weights, tmp_path / "plain")
    _, curve = run(row(), recipe({"compile": True}, max_steps=3), pairs, weights, tmp_path / "out")
    np.testing.assert_allclose(losses(curve), losses(plain), atol=1e-4)


def test_separation_in_full_training_wants_sentences(pairs, weights, tmp_path):
    plan = recipe(loss={"separation": 0.5, "directions": CL, "denominator": "target_only"}, max_steps=2)
    with pytest.raises(ValueError, match="needs features of the captions"):
        run(row(), plan, pairs, weights, tmp_path / "a")
    (tmp_path / "sentences").mkdir()
    np.save(tmp_path / "sentences/text.npy", np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32))
    _, curve = run(row(), plan, pairs, weights, tmp_path / "b", sentences=tmp_path / "sentences")
    assert len(losses(curve)) == 2


def test_every_pair_comes_once_an_epoch():
    order = Order(40, recipe(batch_size=8), 3)
    for epoch in range(3):
        rows = np.concatenate([order.draw(epoch * 5 + i).rows for i in range(5)])
        assert sorted(rows) == list(range(40))
    np.testing.assert_array_equal(Order(40, recipe(batch_size=8), 3).draw(7).rows, order.draw(7).rows)


def test_a_crop_lies_within_the_image(rng):
    for _ in range(500):
        width, height = rng.integers(1, 60, 2)
        left, top, right, bottom = crop_box(int(width), int(height), 0.3, rng.random(4))
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


def test_tensorboard_holds_the_loss(pairs, weights, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(row(), recipe(max_steps=2), pairs, weights, tmp_path / "out", tensorboard=tmp_path / "tb")
    events = EventAccumulator(str(tmp_path / "tb/seed0")).Reload()
    found = [e.value for e in events.Scalars("loss")]
    np.testing.assert_allclose(found, losses((tmp_path / "out/seed0/curve.csv").read_text()), rtol=1e-6)
    assert json.loads((tmp_path / "out/seed0/checkpoint.json").read_text())["layout"] == "open_clip"


def test_a_learned_temperature_that_is_not_trained_is_refused(pairs, weights, tmp_path):
    plan = recipe(trainable=["visual."], loss={"temperature": "learned"})
    with pytest.raises(UserError, match=r"temperature: learned, but trainable: \['visual\.'\] leaves out logit_scale"):
        run(row(), plan, pairs, weights, tmp_path / "out")
