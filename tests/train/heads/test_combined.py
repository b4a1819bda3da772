"""Combined models against the formula written out in numpy, an item at a time, and against their ONNX graph."""

import numpy as np
import pytest
import torch

from gcl.common.arrays import unit
from gcl.config.recipes import Combine
from gcl.export.combined_graph import combined_graph
from gcl.infer.session import open_session
from gcl.models import family
from gcl.train.heads.combined import apply_combined, combine, read_back, seeds_of, stored, training_features
from gcl.train.heads.frozen import Features
from gcl.train.heads.head import Head, apply_folded

TWO, ONE = family("timm_hf").heads, family("vista").heads
PAIRS, D, SEEDS = 20, 6, 3


def features_of(towers):
    torch.manual_seed(0)
    rows = torch.arange(PAIRS)
    text = 12 if towers == 1 else 10
    fused = torch.randn(PAIRS, 12) if towers == 1 else None
    images = torch.randn(2 * PAIRS, 12) + 1
    return Features(
        images, torch.randn(PAIRS, text) - 1, fused, rows, rows[:, None], rows[:, None], torch.ones(PAIRS), None
    )


def heads_of(data, keys):
    found, plain = [], training_features(data)
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        heads = {keys[m]: Head(keys[m], x, D, 0.0) for m, x in plain.items()}
        found.append({k: v for head in heads.values() for k, v in head.folded().items()})
    return found


@pytest.fixture(params=[2, 1], ids=["two towers", "one encoder"])
def model(request):
    data, keys = features_of(request.param), TWO if request.param == 2 else ONE
    return data, keys, heads_of(data, keys)


def length_one(x):
    return x / np.linalg.norm(x)


class Literal:
    """The formula, a loop per item, seed and neighbour."""

    def __init__(self, data, keys, states, how):
        self.keys, self.states, self.how = keys, states, how
        self.own = training_features(data)
        self.means = {m: np.mean([self.outputs(m, x) for x in rows], 0) for m, rows in self.own.items()}

    def outputs(self, modality, x):
        found = [apply_folded(self.keys[modality], state, x[None])[0].numpy() for state in self.states]
        return np.concatenate([length_one(o) for o in found])

    def shared(self, modality, x):
        return length_one(self.outputs(modality, x) - self.means[modality])

    def private(self, modality, x):
        return length_one((x - self.own[modality].mean(0)).numpy())

    def expanded(self, modality, x):
        other = {"image": "text", "text": "image"}.get(modality)
        if other is None:
            return self.shared(modality, x)
        cosines = [self.private(modality, y) @ self.private(modality, x) for y in self.own[modality]]
        near = [j for j in np.argsort(cosines)[::-1] if cosines[j] <= 0.999][: self.how.neighbours]
        weights = [np.exp(self.how.sharpness * cosines[j]) for j in near]
        return length_one(sum(w * self.shared(other, self.own[other][j]) for w, j in zip(weights, near, strict=True)))

    def vector(self, modality, x):
        shared, other = self.shared(modality, x), self.expanded(modality, x)
        if modality == "image":
            shared = length_one((1 - self.how.textual) * shared + self.how.textual * other)
        parts = [shared]
        if self.how.expand:
            parts += [self.how.expand * (other if modality == "image" else shared)]
            parts += [self.how.expand * (other if modality == "text" else shared)]
        if self.how.private:
            own = self.how.private * self.private(modality, x)
            zeros = {m: np.zeros(rows.shape[1]) for m, rows in self.own.items()}
            if len(zeros) == 3:
                parts += [own]
            else:
                parts += [own, zeros["text"]] if modality == "image" else [zeros["image"], own]
        return length_one(np.concatenate(parts))


HOWS = [
    Combine(),
    Combine(private=0.7),
    Combine(expand=0.5, neighbours=4, sharpness=5),
    Combine(private=2, expand=0.7, neighbours=30),
    Combine(textual=1, neighbours=5),
    Combine(textual=0.5, private=1, expand=0.5, neighbours=5),
]


@pytest.mark.parametrize("how", HOWS, ids=["joint", "private", "expanded", "ramp", "textual", "all"])
def test_the_vector_is_the_formula_s_and_the_graph_s(model, tmp_path, how):
    data, keys, states = model
    state, literal = combine(data, keys, states, how), Literal(data, keys, states, how)
    for modality, own in training_features(data).items():
        features = torch.cat([own[:3], torch.randn(4, own.shape[1])])  # some that are in the bank themselves
        found = apply_combined(keys[modality], state, modality, features, how).numpy()
        np.testing.assert_allclose(found, [literal.vector(modality, x) for x in features], rtol=0, atol=1e-5)
        check_graph(state, modality, keys, how, features, found, tmp_path)


def check_graph(state, modality, keys, how, features, found, folder):
    plain = {name: tensor.numpy() for name, tensor in state.items()}
    combined_graph(plain, modality, keys[modality], how, folder / "h.onnx")
    (exported,) = open_session(folder / "h.onnx", "cpu").run(None, {"x": features.numpy()})
    np.testing.assert_allclose(exported, found, rtol=0, atol=2e-6)


@pytest.mark.parametrize("bits", [16, 8])
def test_a_bank_of_fewer_bits_is_near_and_the_graph_reads_the_same(model, tmp_path, bits):
    data, keys, states = model
    how = Combine(private=1, expand=1, bank_bits=bits, neighbours=4)
    state = combine(data, keys, states, how)
    whole = combine(data, keys, states, Combine(private=1, expand=1, neighbours=4))
    features = torch.randn(50, 12)
    found = apply_combined(keys["image"], state, "image", features, how)
    check_graph(state, "image", keys, how, features, found.numpy(), tmp_path)
    expected = apply_combined(keys["image"], whole, "image", features, how)
    cosines = (found * expected).sum(1)
    assert cosines.median() > 0.9999
    assert not torch.equal(found, expected)


def test_stored_rows_come_back_within_half_a_step():
    rows = torch.randn(7, 5)
    for bits, step in ((32, 0.0), (16, 2e-3), (8, float(rows.abs().max()) / 127)):
        error = (read_back(stored("x", rows, bits), "x") - rows).abs().max()
        assert error <= 0.51 * step


def test_a_bank_takes_pairs_from_end_to_end(model):
    data, keys, states = model
    state = combine(data, keys, states, Combine(expand=1, bank=3))
    whole = combine(data, keys, states, Combine(expand=1))
    torch.testing.assert_close(state["image.bank"], whole["image.bank"][[0, 10, 19]])


def test_principal_directions_keep_the_most_of_the_training_vectors(model, tmp_path):
    data, keys, states = model
    how = Combine(private=1, expand=0.5, width=8)
    state = combine(data, keys, states, how)
    own = training_features(data)
    whole = torch.cat([apply_combined(keys[m], state, m, x, Combine(private=1, expand=0.5)) for m, x in own.items()])
    values = np.linalg.svd(whole.numpy().astype(np.float64), compute_uv=False)
    kept = whole @ state["project"]
    assert float((kept**2).sum()) == pytest.approx(float((values[:8] ** 2).sum()), rel=1e-5)
    found = apply_combined(keys["image"], state, "image", own["image"][:5], how)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    check_graph(state, "image", keys, how, own["image"][:5], found.numpy(), tmp_path)


def test_private_parts_of_two_towers_meet_only_their_own_modality():
    data = features_of(2)
    how = Combine(private=0.7)
    state = combine(data, TWO, heads_of(data, TWO), how)
    by_modality = {
        m: apply_combined(TWO[m], state, m, x[:4], how).numpy()[:, SEEDS * D :]
        for m, x in training_features(data).items()
    }
    assert np.abs(by_modality["image"] @ by_modality["text"].T).max() == 0
    both = unit((by_modality["image"] + by_modality["text"]).astype(np.float32))
    assert (both @ by_modality["image"].T).max() > 0.1


def test_heads_are_kept_by_seed(model):
    data, keys, states = model
    found = seeds_of(combine(data, keys, states, Combine()))
    assert len(found) == SEEDS
    for state, expected in zip(found, states, strict=True):
        assert state.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(state[key], tensor)
