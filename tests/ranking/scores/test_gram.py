"""The streamed sums: right at any batch size, and honest about their rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.ranking.gram import Moments


def lower(matrix):
    return np.tril(matrix)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
    precision=st.sampled_from([32, 64]),
)
def test_batches_add_up(sizes, seed, precision):
    rng = np.random.default_rng(seed)
    rows, width = sum(sizes), 5
    x = rng.normal(size=(rows, width)) * [1e-3, 1.0, 50.0, 1e4, 1.0] + [5.0, 0.0, -70.0, 1e4, 3.0]
    y = rng.integers(0, 3, rows)
    moments = Moments(classes=3, precision=precision)
    start = 0
    for size in sizes:
        moments.add(x[start : start + size], y[start : start + size])
        start += size
    bound = 1e-5 if precision == 32 else 1e-11
    centred = x - x.mean(axis=0)
    spread = np.sqrt(np.diag(x.T @ x))
    assert moments.rows == rows
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), rtol=bound)
    np.testing.assert_allclose(
        moments.gram() / np.outer(spread, spread),
        lower(x.T @ x / np.outer(spread, spread)),
        atol=bound,
    )
    z = centred / moments.scale
    # A first batch of one row says nothing of the scale; errors are relative to what came later.
    size = max(1.0, float(np.abs(z).max()) ** 2)
    np.testing.assert_allclose(
        moments.scaled_scatter() / size, lower(z.T @ z) / size, atol=bound * rows
    )
    sums = np.array([x[y == c].sum(axis=0) for c in range(3)])
    np.testing.assert_allclose(moments.feature_targets(), sums, rtol=1e-6, atol=1e-6)
    fourth = np.sum(np.sum(centred**2, axis=1) ** 2)
    np.testing.assert_allclose(
        moments.fourth_moment(), fourth, rtol=1e-4, atol=1e-9 * spread.max() ** 4
    )


def test_numbers_as_targets():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 2)) + 3
    moments = Moments(columns=2, precision=64).add(x[:20], y[:20]).add(x[20:], y[20:])
    np.testing.assert_allclose(moments.feature_targets(), y.T @ x, rtol=1e-12)
    np.testing.assert_allclose(moments.target_squares, (y**2).sum(axis=0), rtol=1e-12)


def test_state_goes_to_a_file_and_back(tmp_path):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 4)).astype(np.float32), rng.integers(0, 3, 60)
    whole = Moments(classes=3).add(x, y)
    np.savez(tmp_path / "moments.npz", **Moments(classes=3).add(x[:30], y[:30]).state())
    with np.load(tmp_path / "moments.npz") as state:
        resumed = Moments.from_state(dict(state)).add(x[30:], y[30:])
    np.testing.assert_allclose(resumed.gram(), whole.gram(), rtol=1e-5)
    assert resumed.rows == 60
    assert resumed.classes == 3


def test_half_precision_features_are_added_as_they_are():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 3)).astype(np.float16)
    moments = Moments(classes=2).add(x, np.arange(40) % 2)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(moments.gram(), lower(wide.T @ wide), rtol=1e-4, atol=1e-4)


def test_rounding_error_is_as_announced():
    rng = np.random.default_rng(4)
    x = (rng.normal(size=(6000, 64)) + 3).astype(np.float32)
    y = rng.integers(0, 2, 6000)
    rough = Moments(classes=2).add(x, y)
    exact = Moments(classes=2, precision=64).add(x, y)
    error = np.tril(rough.scaled_scatter() - exact.scaled_scatter()).std()
    assert error < rough.entry_error < 100 * error


def test_either_classes_or_columns():
    with pytest.raises(ValueError, match="number of classes"):
        Moments()
