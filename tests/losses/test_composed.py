"""Composed queries: interpolation on the sphere, and the loss against a loop."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from gcl.losses.composed import composed_loss, slerp


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(3)]


def by_formula(a, b, share):
    """Shoemake's: sines of the parts of the angle, by that of the whole."""
    angle = math.acos(float(a @ b))
    return (math.sin((1 - share) * angle) * a + math.sin(share * angle) * b) / math.sin(angle)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_slerp_is_the_formula(vectors, share):
    one, other = (normalize(x, dim=1) for x in vectors[:2])
    found = slerp(one, other, share)
    torch.testing.assert_close(found, torch.stack([by_formula(a, b, share) for a, b in zip(one, other, strict=True)]))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6, dtype=torch.float64))


def test_slerp_ends_at_both_and_its_middle_is_the_mean_made_unit(vectors):
    one, other, _ = vectors
    torch.testing.assert_close(slerp(one, other, 0), one)
    torch.testing.assert_close(slerp(one, other, 1), other)
    a, b = normalize(one, dim=1), normalize(other, dim=1)
    torch.testing.assert_close(slerp(a, b, 0.5), normalize(a + b, dim=1))
    torch.testing.assert_close(slerp(one, 3 * other, 0.5).norm(dim=1), (one.norm(dim=1) + 3 * other.norm(dim=1)) / 2)


def test_slerp_of_a_vector_with_itself_is_itself_and_has_a_gradient():
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0]], requires_grad=True)
    found = slerp(x, x.detach(), 0.5)
    torch.testing.assert_close(found, x)
    found.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_the_loss_is_that_of_a_loop(vectors):
    queries, candidates, more = (normalize(x, dim=1) for x in vectors)
    everything = torch.cat([candidates, more])
    masked = torch.rand(6, 12, generator=torch.Generator().manual_seed(1)) < 0.3
    terms = []
    for j in range(6):
        logits = [float(queries[j] @ c) / 0.1 for c in everything]
        kept = [x for k, x in enumerate(logits) if k == j or not masked[j, k]]
        terms.append(math.log(sum(math.exp(x) for x in kept)) - logits[j])
    assert composed_loss(queries, everything, 0.1, masked).item() == pytest.approx(sum(terms) / 6, rel=1e-9)
