from dataclasses import asdict

import numpy as np
import pytest

from stockpot.errors import InputError
from stockpot.evaluation import selection


def test_greedy_keeps_what_does_not_hurt():
    """Best first; a tie is accepted; a fall is refused and later candidates are still tried."""
    scores = {("b",): 0.90, ("b", "a"): 0.90, ("b", "a", "c"): 0.85, ("b", "a", "d"): 0.91}
    result = selection.greedy_soup(
        {"a": 0.8, "b": 0.9, "c": 0.7, "d": 0.6}, lambda members: scores[members]
    )
    assert result.members == ("b", "a", "d")
    assert result.score == 0.91
    assert [(s.candidate, s.accepted) for s in result.trace] == [
        ("b", True),
        ("a", True),
        ("c", False),
        ("d", True),
    ]
    assert asdict(result.trace[2]) == {"candidate": "c", "score": 0.85, "accepted": False}


def test_greedy_starts_from_the_best_run_and_never_falls_below_it():
    rng = np.random.default_rng(0)
    accuracy = {name: float(rng.random()) for name in "abcdef"}
    noisy = {}

    def evaluate(members):
        noisy[members] = accuracy[members[0]] + rng.normal(0, 0.1)
        return noisy[members]

    result = selection.greedy_soup(accuracy, evaluate)
    first = selection.best(accuracy)
    assert result.members[0] == first
    assert noisy[result.members] == result.score >= noisy[(first,)]


def test_ties_keep_the_given_order():
    result = selection.greedy_soup({"x": 0.5, "y": 0.5}, lambda members: 1.0)
    assert result.members == ("x", "y")
    assert selection.best({"x": 0.5, "y": 0.5}) == "x"


def test_pooled_and_mean_disagree_when_domains_differ_in_size():
    scores = {"large": np.ones(90), "small": np.zeros(10)}
    assert selection.validation_score(scores, "pooled") == pytest.approx(0.9)
    assert selection.validation_score(scores, "mean") == pytest.approx(0.5)


def test_nothing_to_select_from():
    for call in (
        lambda: selection.greedy_soup({}, lambda members: 0.0),
        lambda: selection.best({}),
        lambda: selection.validation_score({"a": []}, "mean"),
    ):
        with pytest.raises(InputError):
            call()
