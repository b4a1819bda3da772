"""Heads of several seeds as one vector, with private features, against the formula written out in numpy."""

import numpy as np
import pytest
import torch

from gcl.common.arrays import unit
from gcl.common.errors import UserError
from gcl.export.export import write_combined
from gcl.infer.session import open_session
from gcl.models import family
from gcl.train.combined import apply_combined, combine, seeds_of, training_features
from gcl.train.frozen import Features
from gcl.train.head import Head, apply_folded

KEYS = family("timm_hf").heads
WIDTHS = {"image": 12, "text": 10}
PAIRS, D, SEEDS = 20, 6, 3


@pytest.fixture
def data():
    torch.manual_seed(0)
    rows = torch.arange(PAIRS)
    return Features(
        torch.randn(2 * PAIRS, WIDTHS["image"]) + 1, torch.randn(PAIRS, WIDTHS["text"]) - 1, None, rows, rows[:, None],
        rows[:, None], torch.ones(PAIRS), None,
    )  # fmt: skip


@pytest.fixture
def states(data):
    found = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        plain = training_features(data)
        heads = [Head(KEYS[m], plain[m], D, 0.0) for m in ("image", "text")]
        found.append({k: v for head in heads for k, v in head.folded().items()})
    return found


def literal(data, states, modality, features, private):
    """The vector of each item, a loop per item and seed."""

    def shared(x):
        outputs = [apply_folded(KEYS[modality], state, x[None])[0].numpy() for state in states]
        return np.concatenate([o / np.linalg.norm(o) for o in outputs])

    own = training_features(data)[modality]
    mean = np.mean([shared(x) for x in own], 0)
    found = []
    for x in features:
        s = shared(x) - mean
        p = (x - own.mean(0)).numpy()
        parts = [s / np.linalg.norm(s)]
        if private:
            mine, zeros = private * p / np.linalg.norm(p), np.zeros(WIDTHS["text" if modality == "image" else "image"])
            parts += [mine, zeros] if modality == "image" else [zeros, mine]
        found.append(np.concatenate(parts) / np.sqrt(1 + private**2))
    return np.array(found)


@pytest.mark.parametrize("private", [0.0, 0.7])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_the_vector_is_the_formula_s_and_the_graph_s(data, states, tmp_path, modality, private):
    state = combine(data, KEYS, states, private)
    features = torch.randn(5, WIDTHS[modality])
    found = apply_combined(KEYS[modality], state, modality, features, private).numpy()
    np.testing.assert_allclose(found, literal(data, states, modality, features, private), rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    plain = {name: tensor.numpy() for name, tensor in state.items()}
    write_combined(plain, modality, KEYS[modality], private, tmp_path / "h.onnx")
    (exported,) = open_session(tmp_path / "h.onnx", "cpu").run(None, {"x": features.numpy()})
    np.testing.assert_allclose(exported, found, rtol=0, atol=1e-6)


def test_private_parts_meet_only_their_own_modality(data, states):
    state = combine(data, KEYS, states, 0.7)
    by_modality = {
        m: apply_combined(KEYS[m], state, m, x[:4], 0.7).numpy()[:, SEEDS * D :]
        for m, x in training_features(data).items()
    }
    assert np.abs(by_modality["image"] @ by_modality["text"].T).max() == 0
    both = unit((by_modality["image"] + by_modality["text"]).astype(np.float32))
    assert (both @ by_modality["image"].T).max() > 0.1


def test_heads_are_kept_by_seed(data, states):
    found = seeds_of(combine(data, KEYS, states, 0.0))
    assert len(found) == SEEDS
    for state, expected in zip(found, states, strict=True):
        assert state.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(state[key], tensor)


def test_private_features_need_two_towers(data, states):
    with pytest.raises(UserError, match="private is for two towers"):
        combine(data._replace(fused=data.text, fused_rows=data.text_rows), KEYS, states, 0.5)
