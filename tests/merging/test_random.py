"""Random numbers of an element depend on its place alone, and look random."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from stockpot.merging.random import uniform

SIZE = 1 << 20


def test_any_way_of_cutting_gives_the_same_numbers():
    for start in (0, 5, (1 << 17) - 3, (1 << 32) - 300_000):
        whole = uniform(1, "w", 2, start, 600_000)
        cuts = [0, 1, 7, 1000, 131_072, 131_073, 299_999, 300_001, 600_000]
        parts = [uniform(1, "w", 2, start + a, b - a) for a, b in itertools.pairwise(cuts)]
        assert np.array_equal(whole, np.concatenate(parts))


def test_numbers_are_in_range_and_uniform():
    numbers = uniform(0, "w", 0, 0, SIZE)
    assert numbers.dtype == np.float32
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    counts = np.histogram(numbers, bins=1024, range=(0, 1))[0]
    assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4


@pytest.mark.parametrize("other", [(1, "w", 0, 0), (0, "v", 0, 0), (0, "w", 1, 0), (0, "w", 0, 1)])
def test_seed_name_model_and_place_give_unrelated_numbers(other):
    first, second = uniform(0, "w", 0, 0, SIZE), uniform(*other, SIZE)
    assert abs(np.corrcoef(first, second)[0, 1]) * np.sqrt(SIZE) < 4
    table = np.histogram2d(first, second, bins=32)[0]
    assert 1e-4 < stats.chisquare(table.ravel()).pvalue < 1 - 1e-4


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_how_many_fall_below_a_share_varies_as_it_should(share):
    counts = (uniform(3, "w", 0, 0, SIZE) < share).reshape(-1, 256).sum(axis=1)
    ratio = counts.var() / (256 * share * (1 - share))
    assert abs(ratio - 1) < 4 * np.sqrt(2 / counts.size)
