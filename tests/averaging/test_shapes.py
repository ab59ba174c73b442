"""Coefficients against the decays and averages that they stand for, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stockpot.averaging import (
    RunningMean,
    coefficients,
    decay_coefficients,
    ema_coefficients,
    valley_coefficients,
)
from stockpot.averaging.shapes import DECAYS
from stockpot.errors import InputError
from stockpot.training.averaging import LossValley

COUNTS = (1, 2, 3, 8, 50)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("shape", ["cosine", "linear", "sqrt"])
def test_wsm_gives_what_a_decayed_run_would_have(shape: str, count: int) -> None:
    """Eq. of arXiv 2507.17634: changes scaled by the decay = checkpoints weighed by c_j."""
    rng = np.random.default_rng(count)
    changes = rng.standard_normal((count, 5))
    checkpoints = changes.cumsum(axis=0)
    part = np.arange(count) / count
    decay = {
        "cosine": 0.5 * (1 + np.cos(np.pi * part)),
        "linear": 1 - part,
        "sqrt": 1 - np.sqrt(part),
    }[shape]
    decayed = (decay[:, None] * changes).sum(axis=0)
    own = np.array(coefficients(f"wsm:{shape}", count))
    np.testing.assert_allclose(own @ checkpoints, decayed, atol=1e-13)
    assert (own >= 0).all()
    assert own.sum() == pytest.approx(1.0, abs=1e-15)
    # And back: what a checkpoint and those after it weigh is the decay of the steps up to it.
    np.testing.assert_allclose(own[::-1].cumsum()[::-1], decay, atol=1e-14)


def test_constant_learning_rate_then_merge_is_gradient_descent_with_decay() -> None:
    """On a linear loss the gradient is constant, so the decayed run can be run: K - 1 steps."""
    gradient, rate, start, count = np.array([1.0, -2.0]), 0.1, np.array([3.0, 3.0]), 9
    constant = [start]
    for _ in range(count - 1):
        constant.append(constant[-1] - rate * gradient)
    for shape, decay in DECAYS.items():
        theta = start
        for j in range(1, count):
            theta = theta - rate * decay(j / count) * gradient
        own = coefficients(f"wsm:{shape}", count)
        merged = sum(c * w for c, w in zip(own, constant, strict=True))
        np.testing.assert_allclose(merged, theta, atol=1e-14)


def test_known_values() -> None:
    assert coefficients("uniform", 4) == coefficients("wsm:linear", 4) == [0.25] * 4
    root = math.sqrt(0.5)
    assert coefficients("wsm:sqrt", 2) == pytest.approx([root, 1 - root])
    assert coefficients("wsm:cosine", 2) == pytest.approx([0.5, 0.5])
    quarter = (1 + root) / 2
    expected = [1 - quarter, quarter - 0.5, quarter - 0.5, 1 - quarter]
    assert coefficients("wsm:cosine", 4) == pytest.approx(expected)
    assert coefficients("ema:0.5", 3) == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert coefficients("ema:0", 3) == [0.0, 0.0, 1.0]
    assert decay_coefficients([1, 1, 0.5]) == [0, 0.5, 0.5]
    for shape in ("uniform", "ema:0.3", "wsm:cosine", "wsm:sqrt"):
        assert coefficients(shape, 1) == [1.0]


@pytest.mark.parametrize("decay", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("count", COUNTS)
def test_the_running_mean_is_the_coefficients_times_the_states(decay: float, count: int) -> None:
    torch.manual_seed(count)
    states = [{"w": torch.randn(7, dtype=torch.float64)} for _ in range(count)]
    before = [state["w"].clone() for state in states]
    mean = RunningMean(decay)
    for state in states:
        mean.add(state)
    own = [1 / count] * count if decay == 1 else ema_coefficients(decay, count)
    expected = sum(c * s["w"] for c, s in zip(own, states, strict=True))
    torch.testing.assert_close(mean.mean()["w"], expected.float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(mean.sums["w"] / mean.count, expected, rtol=0, atol=1e-14)
    # Sums are float64 and added to in place: they are never the caller's own tensors.
    assert all(torch.equal(a, s["w"]) for a, s in zip(before, states, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_the_valley_is_that_of_the_trainer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = (np.abs(np.linspace(-1, 1.5, 25)) + 0.2 * rng.random(25)).tolist()
    states = [{"w": torch.from_numpy(rng.standard_normal(5))} for _ in losses]
    valley = LossValley()
    for state, loss in zip(states, losses, strict=True):
        segment = RunningMean()
        segment.add(state)
        valley.add(segment, loss)
    own = valley_coefficients(losses)
    expected = sum(c * s["w"] for c, s in zip(own, states, strict=True))
    torch.testing.assert_close(valley.mean()["w"], expected.float(), rtol=0, atol=1e-6)
    inside = np.flatnonzero(own)
    assert sum(own) == pytest.approx(1.0)
    assert (np.diff(inside) == 1).all()  # one window
    assert 0 < len(inside) < len(losses)


@pytest.mark.parametrize(
    "shape", ["", "mean", "ema", "ema:", "ema:1", "ema:-0.1", "ema:nan", "wsm", "wsm:step", "wsm:"]
)
def test_other_shapes_are_refused(shape: str) -> None:
    with pytest.raises(InputError, match=r"shape|ema"):
        coefficients(shape, 3)


@pytest.mark.parametrize("decay", [[], [0.9, 0.5], [1.0, 0.4, 0.5], [1, -0.1], [1, float("nan")]])
def test_what_is_no_decay_is_refused(decay: list[float]) -> None:
    with pytest.raises(InputError, match="decay"):
        decay_coefficients(decay)
