"""The loss against a literal transcription of its formula in float64."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from gcl.losses import MODALITIES, OWN_COLUMNS, duplicates, gcl_loss

ALL = {f"{a}>{b}": 1.0 for a, b in itertools.permutations(MODALITIES, 2)}
CL = {"image>text": 1.0, "text>image": 1.0}


def literal(e, directions, rule, t, masked):
    """The double sum of the paper, term by term."""
    n = len(e["image"])
    total = torch.zeros((), dtype=torch.float64)
    for j in range(n):
        for direction, weight in directions.items():
            a, b = direction.split(">")
            z = torch.zeros((), dtype=torch.float64)
            for m, k in itertools.product(MODALITIES, range(n)):
                own = k == j
                if (
                    (masked is not None and not own and masked[j, k])
                    or (rule == "no_self" and own and m == a)
                    or (rule == "no_self_no_copositive" and own and m != b)
                    or (rule == "cross_only" and m == a)
                    or (rule == "target_only" and m != b)
                ):
                    continue
                z = z + torch.exp(e[a][j] @ e[m][k] / t)
            total = total - weight * torch.log(torch.exp(e[a][j] @ e[b][j] / t) / z)
    return total / (n * sum(directions.values()))


def random_embeddings(seed, n, d, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {
        m: normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1).to(dtype).requires_grad_()
        for m in MODALITIES
    }


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 6),
    rule=st.sampled_from(sorted(OWN_COLUMNS)),
    weights=st.dictionaries(st.sampled_from(sorted(ALL)), st.floats(0.1, 3), min_size=1),
    temperature=st.sampled_from([0.02, 0.1, 1.0]),
    share_masked=st.sampled_from([None, 0.2, 1.0]),
)
def test_value_and_gradient_are_those_of_the_formula(seed, n, rule, weights, temperature, share_masked):
    e = random_embeddings(seed, n, 4)
    masked = None
    if share_masked is not None:
        masked = torch.rand(n, n, generator=torch.Generator().manual_seed(seed)) < share_masked
    found = gcl_loss(e, weights, rule, temperature, masked)
    expected = literal(e, weights, rule, temperature, masked)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    leaves = list(e.values())
    got = torch.autograd.grad(found, leaves)
    wanted = torch.autograd.grad(expected, leaves, allow_unused=True)
    for x, y in zip(got, wanted, strict=True):
        torch.testing.assert_close(x, torch.zeros_like(x) if y is None else y, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("rule", "floor"),
    [
        ("full", math.log(3)),
        ("no_self", math.log(2)),
        ("no_self_no_copositive", 0),
        ("cross_only", math.log(2)),
        ("target_only", 0),
    ],
)
def test_floor_when_positives_coincide_and_negatives_are_far(rule, floor):
    # Four samples on orthogonal axes, all three modalities equal; at t = 0.01 a negative weighs exp(-100).
    e = dict.fromkeys(MODALITIES, torch.eye(4, dtype=torch.float64))
    assert gcl_loss(e, ALL, rule, 0.01).item() == pytest.approx(floor, abs=1e-12)


def test_cl_is_the_symmetric_cross_entropy():
    e = random_embeddings(1, 8, 5)
    logits = e["image"] @ e["text"].T / 0.07
    labels = torch.arange(8)
    expected = (
        torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)
    ) / 2
    torch.testing.assert_close(gcl_loss(e, CL, "target_only", 0.07), expected)


@pytest.mark.parametrize("rule", sorted(OWN_COLUMNS))
@pytest.mark.parametrize("temperature", [0.01, 0.002])
def test_float32_stays_finite_and_right_at_small_temperatures(rule, temperature):
    # At t = 0.01 logits span 200, more than exp() of a float32 holds.
    exact = random_embeddings(3, 16, 8)
    single = {m: v.detach().float().requires_grad_() for m, v in exact.items()}
    wanted = gcl_loss(exact, ALL, rule, temperature)
    found = gcl_loss(single, ALL, rule, temperature)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    for x, y in zip(
        torch.autograd.grad(found, list(single.values())),
        torch.autograd.grad(wanted, list(exact.values())),
        strict=True,
    ):
        torch.testing.assert_close(x.double(), y, rtol=1e-3, atol=1e-4 / temperature)


def test_duplicates_share_an_image_or_a_text():
    same = duplicates(torch.tensor([1, 1, 2, 3]), torch.tensor([5, 6, 7, 6]))
    assert same.nonzero().tolist() == [[0, 1], [1, 0], [1, 3], [3, 1]]


def test_a_masked_duplicate_is_no_negative():
    e = random_embeddings(2, 3, 4)
    masked = torch.zeros(3, 3, dtype=torch.bool)
    masked[0, 1] = masked[1, 0] = True
    assert gcl_loss(e, ALL, "no_self", 0.1, masked) < gcl_loss(e, ALL, "no_self", 0.1)


def test_an_unknown_denominator_is_refused():
    with pytest.raises(ValueError, match="unknown denominator 'ful'"):
        gcl_loss(random_embeddings(0, 2, 2), ALL, "ful", 0.1)
