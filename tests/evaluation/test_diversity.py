import numpy as np
import pytest

from stockpot.errors import InputError
from stockpot.evaluation import diversity

# N11 = 4, N10 = 2, N01 = 1, N00 = 3
A = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0])
B = np.array([1, 1, 1, 1, 0, 0, 1, 0, 0, 0])


def test_hand_made_counts():
    one, both = diversity.joint_errors([A, B])
    assert (one.tolist(), both.tolist()) == ([3.0], [3.0])
    assert diversity.ratio_error([A, B]) == pytest.approx((1 + 2) / 3)


def test_models_that_never_err_together():
    """With N00 = 0 the ratio is twice the number of single errors."""
    assert diversity.ratio_error([[1, 1, 0, 1], [1, 0, 1, 1]]) == 4.0


def test_a_model_with_itself():
    assert diversity.ratio_error([A, A]) == 0.0


def test_measures_are_symmetric():
    assert diversity.ratio_error([A, B]) == diversity.ratio_error([B, A])


def test_pair_means_equal_the_loop_over_pairs():
    table = np.random.default_rng(0).random((5, 200)) < 0.7
    pairs = [(table[i], table[j]) for i in range(5) for j in range(i + 1, 5)]
    one, both = diversity.joint_errors(table)
    assert one.tolist() == [int((a != b).sum()) for a, b in pairs]
    assert both.tolist() == [int((~a & ~b).sum()) for a, b in pairs]
    expected = np.mean([diversity.ratio_error(pair) for pair in pairs])
    assert diversity.ratio_error(table) == pytest.approx(expected)


def test_agreement_compares_predictions_not_correctness():
    assert diversity.agreement([0, 1, 2, 2], [0, 2, 1, 2]) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diversity.ratio_error([[1, 0]]), "two models or more, got 1"),
        (lambda: diversity.ratio_error([[0.5, 0.2], [1, 0]]), "right and wrong answers only"),
        (lambda: diversity.ratio_error([1, 0]), "expected \\(models, examples\\)"),
        (lambda: diversity.agreement([1], [1, 2]), "cannot be paired"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()
