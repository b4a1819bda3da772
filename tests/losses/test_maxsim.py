"""Late interaction: its loss, its search and its statistics against loops."""

import itertools
import math

import numpy as np
import pytest
import torch

import gcl
from gcl.common.arrays import MODALITIES, unit
from gcl.common.errors import UserError
from gcl.config.recipes import Loss
from gcl.losses.denominators import RULES
from gcl.losses.gcl import gcl_loss
from gcl.losses.maxsim import maxsim, maxsim_loss
from gcl.retrieve import calibration
from gcl.retrieve.exact import Query, top_k
from gcl.train.recipe_loss import UnitVectors, recipe_loss

SIX = {f"{a}>{b}": 1.0 + i for i, (a, b) in enumerate(itertools.permutations(MODALITIES, 2))}


def items(rng, n, late, width=5):
    return unit(rng.normal(size=(n, late * width)).astype(np.float32), late)


def one_by_one(one, other, late):
    """The mean over the vectors of the one of the highest cosine with one of the other's."""
    a, b = (np.split(np.asarray(x, np.float64), late) for x in (one, other))
    cosine = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a]
    return sum(max(row) for row in cosine) / late


@pytest.mark.parametrize("rule", RULES)
def test_with_one_vector_it_is_the_loss_on_cosines(rule, rng):
    vectors = torch.from_numpy(np.stack([items(rng, 7, 1) for _ in range(3)])).double().requires_grad_()
    masked = torch.tensor([[0, 2], [3, 5]])
    for rows in (None, slice(2, 6)):
        grads = []
        for found in (
            maxsim_loss(vectors, SIX, rule, 0.2, 1, masked, rows),
            gcl_loss(vectors, SIX, rule, 0.2, masked, rows),
        ):
            (grad,) = torch.autograd.grad(found, vectors)
            grads.append((found.item(), grad))
        assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-9)
        torch.testing.assert_close(grads[0][1], grads[1][1], rtol=1e-6, atol=1e-9)


def test_it_is_a_loop_over_vectors_from_the_querys_side(rng):
    n, late, t = 4, 3, 0.3
    vectors = np.stack([items(rng, n, late) for _ in range(3)])
    total = 0.0
    for j in range(n):
        z = sum(math.exp(one_by_one(vectors[1, j], vectors[m, k], late) / t) for m in range(3) for k in range(n))
        total -= one_by_one(vectors[1, j], vectors[0, j], late) / t - math.log(z)
    found = maxsim_loss(torch.from_numpy(vectors).double(), {"text>image": 2.0}, "full", t, late)
    assert found.item() == pytest.approx(total / n, rel=1e-6)
    one, other = (torch.from_numpy(x).double() for x in vectors[:2])
    assert not torch.allclose(maxsim(one, other, late), maxsim(other, one, late).T)


def test_what_it_has_no_form_for_is_refused(rng):
    vectors = torch.from_numpy(np.stack([items(rng, 4, 2) for _ in range(3)]))
    with pytest.raises(UserError, match="unknown denominator 'ful'"):
        maxsim_loss(vectors, SIX, "ful", 0.1, 2)
    loss = Loss(directions={"image>text": 1}, denominator="target_only", temperature=0.1, separation=0.5)
    with pytest.raises(UserError, match="balanced, separation and widths are for backbones of one vector"):
        recipe_loss(UnitVectors(vectors, torch.zeros(2, 4)), loss, 0.1, None, None, late=2)


@pytest.mark.parametrize("late", [1, 2, 4])
def test_search_ranks_by_it_with_factors_and_ties(late, rng):
    queries, pool = items(rng, 6, late), items(rng, 50, late)
    pool[[40, 41]] = pool[3]
    hits = gcl.search(queries, pool, k=10, late=late)
    wanted = np.array([[one_by_one(q, c, late) for c in pool] for q in queries])
    assert hits.rows.tolist() == top_k(wanted.round(6).astype(np.float32), 10)[1].tolist()
    np.testing.assert_allclose(hits.scores, np.take_along_axis(wanted, hits.rows, 1), atol=1e-6)
    modalities = rng.integers(0, 3, 50)
    factors, offsets = rng.uniform(1, 2, (6, 3)), rng.normal(size=(6, 3))
    scores = Query(queries, factors, offsets, late).row(2).scores(pool, modalities)
    np.testing.assert_allclose(scores[0], wanted[2] * factors[2, modalities] + offsets[2, modalities], rtol=1e-5)


def test_search_wants_a_width_of_whole_vectors(rng):
    with pytest.raises(UserError, match="late is 3, expected a number that divides the width 10"):
        gcl.search(items(rng, 2, 2), items(rng, 2, 2), late=3)


def test_statistics_are_of_mismatched_pairs_each_way(rng):
    late = 2
    image, text, both = (items(rng, 9, late) + 0.2 for _ in range(3))
    stats = calibration.fit(image, text, "native", both, late)
    for mode in ("none", "center"):
        found = {
            "image": calibration.vectors(image, None, mode, "native", stats, late=late),
            "image_text": calibration.vectors(None, None, mode, "native", stats, both, late),
        }
        lengths = np.linalg.norm(found["image_text"].reshape(9, late, -1), axis=2)
        np.testing.assert_allclose(lengths, late**-0.5, rtol=1e-5)
        for q, c in itertools.permutations(found, 2):
            scores = [one_by_one(found[q][j], found[c][k], late) for j, k in itertools.permutations(range(9), 2)]
            assert stats.scales[mode][f"{q}>{c}"].mean == pytest.approx(np.mean(scores), abs=1e-6)
            assert stats.scales[mode][f"{q}>{c}"].deviation == pytest.approx(np.std(scores), abs=1e-6)
