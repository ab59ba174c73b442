import pytest

from stockpot.evaluation.wording import difference_words, points


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0.012, 0.003, 0.021), "better by 1.2 points (0.3 to 2.1)"),
        ((-0.012, -0.021, -0.003), "worse by 1.2 points (0.3 to 2.1)"),
        ((0.001, -0.006, 0.009), "no difference that this test could see (-0.6 to +0.9)"),
        ((0.0, 0.0, 0.0), "the same on every example"),
    ],
)
def test_differences(numbers, words):
    assert difference_words(*numbers) == words


def test_r2_is_not_in_points():
    assert difference_words(0.012, 0.003, 0.021, metric="r2") == (
        "better by 0.012 of R2 (0.003 to 0.021)"
    )


def test_no_signed_zero():
    assert points(-0.0001) == "0.0"
    assert points(0.0001, sign=True) == "0.0"
    assert points(-0.004, sign=True) == "-0.4"
