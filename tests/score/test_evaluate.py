"""gcl.evaluate: values worked out by hand."""

import pytest

import gcl
from gcl.common.errors import UserError


def test_measures_are_means_over_all_queries():
    run = {"a": ["x", "y", "z"], "b": {"y": 1.0, "x": 1.0, "z": 2.0}}
    qrels = {"a": {"y": 1}, "b": {"x": 1, "y": 1}, "missed": {"x": 1}}
    found = gcl.evaluate(run, qrels, ["Success@1", "Success@2", "R@2", "APmin@2"])
    # a: y at 2. b: z, y, x. missed: nothing.
    assert found == pytest.approx(
        {"Success@1": 0, "Success@2": 2 / 3, "R@2": (1 + 1 / 2) / 3, "APmin@2": (1 / 2 + (1 / 2) / 2) / 3}
    )


def test_of_equal_scores_the_first_counts():
    assert gcl.evaluate({"q": {"a": 1.0, "b": 1.0}}, {"q": {"a": 1}}, ["Success@1"]) == {"Success@1": 1.0}
    assert gcl.evaluate({"q": {"b": 1.0, "a": 1.0}}, {"q": {"a": 1}}, ["Success@1"]) == {"Success@1": 0.0}


@pytest.mark.parametrize(
    ("run", "measures", "message"),
    [
        ({"q": ["a"]}, ["Sucess@1"], "measure 'Sucess@1': expected one of ir_measures"),
        ({"q": ["a"]}, ["Success"], "measure 'Success': expected one of ir_measures"),
        ({}, ["Success@1"], "there is no query"),
        ({"q": ["a", "b", "a"]}, ["Success@1"], "query 'q' ranks a candidate twice: a"),
    ],
)
def test_what_can_not_be_scored_is_said(run, measures, message):
    with pytest.raises(UserError, match=message):
        gcl.evaluate(run, {}, measures)
