import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcl.collection.pareto import pareto_set, parts_of


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4).flatmap(lambda p: st.lists(st.tuples(*[st.integers(0, 3)] * p), min_size=1, max_size=25)))
def test_the_set_is_what_nothing_dominates(rows):
    def dominates(a, b):
        return all(x >= y for x, y in zip(a, b, strict=True)) and a != b

    expected = [i for i, row in enumerate(rows) if not any(dominates(other, row) for other in rows)]
    found = pareto_set(np.array(rows)).tolist()
    assert sorted(found) == expected
    assert found == sorted(expected, key=lambda i: (-sum(rows[i]), i))


def test_the_best_of_every_weighing_is_in_it():
    scores = np.random.default_rng(0).normal(size=(500, 3))
    found = set(pareto_set(scores).tolist())
    for weights in np.random.default_rng(1).dirichlet(np.ones(3), 200):
        assert int((scores @ weights).argmax()) in found


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a red car", ["a red car"]),
        ("a band on a sandy beach", ["a band on a sandy beach"]),
        ("A dog AND a cat; with, hats", ["A dog", "a cat", "hats"]),
        (" , ", []),
    ],
)
def test_parts_of_a_text(text, parts):
    assert parts_of(text) == parts
