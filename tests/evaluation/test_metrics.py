import numpy as np
import pytest
from scipy.special import softmax as reference_softmax

from stockpot.errors import InputError
from stockpot.evaluation import metrics


def test_classification_counts_the_largest_output():
    logits = [[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]]
    assert metrics.correct(logits, [0, 1, 1], "classification").tolist() == [1, 1, 0]
    assert metrics.accuracy(logits, [0, 1, 1], "classification") == pytest.approx(2 / 3)


def test_r2_is_the_mean_of_the_scores():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200)
    guess = truth + rng.normal(scale=0.5, size=200)
    expected = 1 - ((truth - guess) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    assert metrics.accuracy(guess[:, None], truth, "regression") == pytest.approx(expected)
    assert metrics.accuracy(np.full(200, truth.mean()), truth, "regression") == pytest.approx(0)


def test_an_ensemble_averages_probabilities_not_logits():
    sure, unsure = [[100.0, 0.0]], [[0.0, 3.0]]
    logits = metrics.ensemble([sure, unsure], "classification")
    expected = (reference_softmax(sure, axis=1) + reference_softmax(unsure, axis=1)) / 2
    np.testing.assert_allclose(np.exp(logits), expected)
    np.testing.assert_allclose(metrics.softmax(logits), expected)
    assert np.isfinite(metrics.ensemble([[[1e5, 0.0]], [[1e5, 0.0]]], "classification")).all()
    np.testing.assert_allclose(metrics.ensemble([[1.0], [3.0]], "regression"), [2.0])


def test_softmax_survives_large_logits():
    assert metrics.softmax([1e4, 1e4]).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("outputs", "labels", "kind", "message"),
    [
        ([[1.0, 0.0]], [0, 1], "classification", "shape \\(1, 2\\) do not fit"),
        ([0.0, 1.0], [0, 1], "classification", "do not fit"),
        (np.zeros((0, 2)), [], "classification", "no example"),
        ([[np.nan, 0.0]], [0], "classification", "example 0 is not finite"),
        ([1.0, 2.0], [3.0, 3.0], "regression", "all 2 labels are 3"),
    ],
)
def test_bad_input(outputs, labels, kind, message):
    with pytest.raises(InputError, match=message):
        metrics.accuracy(outputs, labels, kind)


def test_bad_ensembles():
    with pytest.raises(InputError, match="at least one"):
        metrics.ensemble([], "regression")
    with pytest.raises(InputError, match="predict shapes"):
        metrics.ensemble([[1.0], [1.0, 2.0]], "regression")
