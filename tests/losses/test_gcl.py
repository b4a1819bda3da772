"""The loss against a literal transcription of its formula in float64."""

import itertools
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from gcl.common.arrays import MODALITIES
from gcl.losses import tiled as blockwise
from gcl.losses.denominators import RULES
from gcl.losses.gcl import duplicates, gcl_loss
from gcl.train.recipe_loss import triplet

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
                    or (rule in ("no_self_no_copositive", "no_fused") and own and m != b)
                    or (rule == "no_fused" and not own and m == "image_text")
                    or (rule == "cross_only" and m == a)
                    or (rule == "target_only" and m != b)
                ):
                    continue
                z = z + torch.exp(e[a][j] @ e[m][k] / t)
            # log(exp(x) / z) as x - log(z): the ratio's own gradient underflows at small temperatures.
            total = total - weight * (e[a][j] @ e[b][j] / t - torch.log(z))
    return total / (n * sum(directions.values()))


def matrix_form(e, rule, t):
    """All six directions with autograd on the 3N x 3N logits, for sizes where the double sum takes too long."""
    n = e.shape[1]
    logits = torch.einsum("ajd,mkd->ajmk", e, e) / t
    own = torch.eye(n, dtype=torch.bool)
    total = 0
    for a, b in itertools.permutations(range(3), 2):
        shown = torch.ones(3, n, n, dtype=torch.bool)
        for m in range(3):
            if (rule == "cross_only" and m == a) or (rule == "target_only" and m != b):
                shown[m] = False
            elif rule == "no_fused":
                shown[m] = own & (m == b) if m == 2 else ~own | (m == b)
            elif (rule == "no_self" and m == a) or (rule == "no_self_no_copositive" and m != b):
                shown[m][own] = False
        row = logits[a].masked_fill(~shown.transpose(0, 1), -torch.inf)
        total = total + (row.flatten(1).logsumexp(1) - row[:, b].diagonal()).sum()
    return total / (6 * n)


def random_embeddings(seed, n, d, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {
        m: normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1).to(dtype).requires_grad_()
        for m in MODALITIES
    }


def pairs_of(seed, n, share):
    """Random pairs, each in one of its orders, and the same as a matrix."""
    generator = torch.Generator().manual_seed(seed)
    chosen = (torch.rand(n, n, generator=generator) < share).triu(1)
    pairs = chosen.nonzero().T
    swap = torch.rand(pairs.shape[1], generator=generator) < 0.5
    return torch.where(swap, pairs.flip(0), pairs), chosen | chosen.T


@pytest.fixture(params=[2, 3, 512])
def tile(request, monkeypatch):
    monkeypatch.setitem(blockwise.TILES, "cpu", request.param)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 6),
    rule=st.sampled_from(sorted(RULES)),
    weights=st.dictionaries(st.sampled_from(sorted(ALL)), st.floats(0.1, 3), min_size=1),
    temperature=st.sampled_from([0.002, 0.02, 0.1, 1.0]),
    share_masked=st.sampled_from([None, 0.2, 1.0]),
    fusion=st.sampled_from(["native", "sum_raw", "sum_unit"]),
    cut=st.integers(0, 6),  # into two losses, each of some rows
)
def test_value_and_gradient_are_those_of_the_formula(
    tile, seed, n, rule, weights, temperature, share_masked, fusion, cut
):
    # Raw outputs of unequal lengths: under score fusion the gradient passes through the normalised sum.
    raw = {m: v.detach() * (1 + v.detach()[:, :1].abs()) for m, v in random_embeddings(seed, n, 4).items()}
    raw = {m: v.requires_grad_() for m, v in raw.items() if m != "image_text" or fusion == "native"}
    pairs, matrix = (None, None) if share_masked is None else pairs_of(seed, n, share_masked)
    units, t = triplet(raw, fusion), torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    parts = [slice(0, min(cut, n)), slice(min(cut, n), n)] if cut else [None]
    found = sum(gcl_loss(units.vectors, weights, rule, t, pairs, rows, units.mix) for rows in parts)
    if fusion == "native":
        fused = raw["image_text"]
    else:
        fused = sum(normalize(raw[m], dim=1) if fusion == "sum_unit" else raw[m] for m in ("image", "text"))
    e = {m: normalize(v, dim=1) for m, v in ({**raw, "image_text": fused}).items()}
    expected = literal(e, weights, rule, t, matrix)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    leaves = [*raw.values(), t]
    got = torch.autograd.grad(found, leaves)
    wanted = torch.autograd.grad(expected, leaves, allow_unused=True)
    for x, y in zip(got, wanted, strict=True):
        torch.testing.assert_close(x, torch.zeros_like(x) if y is None else y, rtol=1e-8, atol=1e-9 / temperature)


@pytest.mark.parametrize(
    ("rule", "floor"),
    [
        ("full", math.log(3)),
        ("no_self", math.log(2)),
        ("no_self_no_copositive", 0),
        ("no_fused", 0),
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


@pytest.mark.parametrize("rule", sorted(RULES))
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


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=9))
def test_duplicates_share_an_image_or_a_text(ids):
    found = duplicates(*torch.tensor(ids, dtype=torch.int64).reshape(-1, 2).T)
    expected = [
        [j, k]
        for j, k in itertools.combinations(range(len(ids)), 2)
        if ids[j][0] == ids[k][0] or ids[j][1] == ids[k][1]
    ]
    assert found.T.tolist() == expected


def test_a_masked_duplicate_is_no_negative():
    e = random_embeddings(2, 3, 4)
    masked = torch.tensor([[1], [0]])
    assert gcl_loss(e, ALL, "no_self", 0.1, masked) < gcl_loss(e, ALL, "no_self", 0.1)


def test_one_sample_has_no_negatives():
    e = {m: v.requires_grad_() for m, v in random_embeddings(2, 1, 4).items()}
    assert gcl_loss(e, CL, "target_only", 0.01).item() == 0


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("temperature", [0.01, 0.07])
def test_float32_agrees_with_the_formula_in_float64_to_1e_6(rule, temperature):
    """Relative error of the value and of the gradient as a whole, over several tiles."""
    vectors = torch.stack([v.detach() for m, v in random_embeddings(5, 700, 64, torch.float32).items()])[:2]
    mix = 1 / (vectors[0].double() + vectors[1].double()).norm(dim=1).expand(2, -1)
    found_at, exact_at = vectors.clone().requires_grad_(), vectors.double().requires_grad_()
    found = gcl_loss(found_at, ALL, rule, temperature, None, None, mix)
    found.backward()
    fused = mix[0, :, None] * exact_at[0] + mix[1, :, None] * exact_at[1]
    expected = matrix_form(torch.cat([exact_at, fused[None]]), rule, temperature)
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert ((found_at.grad.double() - exact_at.grad).norm() / exact_at.grad.norm()).item() < 1e-6


def test_a_gradient_is_taken_once():
    e = random_embeddings(2, 3, 4)
    loss = gcl_loss(e, ALL, "full", 0.1)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="can be taken once"):
        loss.backward()


def test_an_unknown_denominator_is_refused():
    with pytest.raises(ValueError, match="unknown denominator 'ful'"):
        gcl_loss(random_embeddings(0, 2, 2), ALL, "ful", 0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("temperature", [0.002, 0.01, 0.07])
def test_a_gpu_gives_the_loss_and_gradient_of_a_cpu(rule, temperature):
    vectors = torch.stack([v.detach() for v in random_embeddings(5, 3000, 64, torch.float32).values()])[:2]
    mix = 1 / (vectors[0].double() + vectors[1].double()).norm(dim=1).expand(2, -1)
    pairs, _ = pairs_of(1, 3000, 0.0005)
    losses, gradients = [], []
    for device in ("cpu", "cuda"):
        leaf = vectors.to(device).detach().requires_grad_()
        losses.append(gcl_loss(leaf, ALL, rule, temperature, pairs.to(device), None, mix.to(device)))
        losses[-1].backward()
        gradients.append(leaf.grad.cpu())
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
    assert ((gradients[1] - gradients[0]).norm() / gradients[0].norm()).item() < 1e-5
