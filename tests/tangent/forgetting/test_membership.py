"""The area under the ROC curve and its interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stockpot.errors import InputError
from stockpot.tangent.forgetting import auc
from stockpot.tangent.forgetting.membership import margins

scores = arrays(np.float64, st.integers(2, 30), elements=st.integers(-5, 5).map(float))


@settings(max_examples=60, deadline=None)
@given(scores, scores)
def test_it_is_the_share_of_pairs_in_order(members, others) -> None:
    pairs = np.sign(members[:, None] - others[None, :]) / 2 + 0.5
    found = auc(members, others)
    assert found.value == pytest.approx(pairs.mean())
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert auc(others, members).value == pytest.approx(1 - found.value)


def test_delong_variance_is_that_of_the_published_formula() -> None:
    """Structural components V10 and V01 of the paper's equation, written as loops."""
    generator = np.random.default_rng(1)
    members, others = generator.normal(1, 1, 40), generator.normal(0, 1, 60)
    v10 = [np.mean([float(m > o) for o in others]) for m in members]
    v01 = [np.mean([float(m > o) for m in members]) for o in others]
    deviation = np.sqrt(np.var(v10, ddof=1) / 40 + np.var(v01, ddof=1) / 60)
    found = auc(members, others)
    assert found.high - found.value == pytest.approx(1.959964 * deviation, rel=1e-5)


def test_the_interval_covers_chance_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        found = auc(generator.normal(size=50), generator.normal(size=80))
        covered += found.low <= 0.5 <= found.high
    assert 0.91 <= covered / 400 <= 0.98


def test_margins_are_true_class_minus_best_other() -> None:
    outputs = np.array([[1.0, 3.0, 2.0], [0.5, 0.0, 0.2]])
    assert margins(outputs, np.array([1, 2])).tolist() == [1.0, pytest.approx(-0.3)]
    assert margins(outputs[:, :1], np.array([0, 0])).tolist() == [1.0, 0.5]


def test_too_few_or_broken_scores_are_refused() -> None:
    with pytest.raises(InputError, match="two examples"):
        auc(np.ones(1), np.ones(5))
    with pytest.raises(InputError, match="not a number"):
        auc(np.array([1.0, np.nan]), np.ones(5))
