"""Halving trains the good ones to the end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.errors import InputError
from stockpot.ranking.halving import successive_halving


def curves(final: dict[str, float]):
    """Learning curves that approach their end; training costs are noted."""
    spent: dict[str, int] = {}

    def train(models, until: int):
        for name in models:
            spent[name] = until
        return {name: final[name] * (1 - 0.5 * np.exp(-until / 20)) for name in models}

    return train, spent


def test_half_goes_at_every_rung_and_the_last_is_trained_to_the_end() -> None:
    final = {f"m{i}": 0.5 + i / 20 for i in range(8)}
    train, spent = curves(final)
    rungs = successive_halving(list(final), train, 80)
    assert [len(rung.measured) for rung in rungs] == [8, 4, 2, 1]
    assert [rung.steps for rung in rungs] == [10, 20, 40, 80]
    assert rungs[-1].kept == ("m7",)
    assert sum(spent.values()) == 4 * 10 + 2 * 20 + 40 + 80
    assert spent["m0"] == 10


def test_a_prediction_can_save_a_late_bloomer() -> None:
    early = {"slow": 0.2, "fast": 0.6}
    known = {"slow": 0.9, "fast": 0.6}
    rungs = successive_halving(
        ["slow", "fast"], lambda models, until: early, 4, predict=lambda m, step, v: known[m]
    )
    assert rungs[0].kept == ("slow",)


def test_what_is_not_affordable_is_not_started() -> None:
    final = {f"m{i}": float(i) for i in range(4)}
    train, _ = curves(final)
    rungs = successive_halving(list(final), train, 40, afford=lambda models, until: until < 40)
    assert [rung.steps for rung in rungs] == [10, 20]
    with pytest.raises(InputError, match="rate"):
        successive_halving(["a"], train, 4, rate=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 50), st.integers(2, 4))
def test_steps_grow_and_models_fall(count: int, steps: int, rate: int) -> None:
    final = {f"m{i}": float(i) for i in range(count)}
    train, _ = curves(final)
    rungs = successive_halving(list(final), train, steps, rate=rate)
    assert [r.steps for r in rungs] == sorted({r.steps for r in rungs})
    assert rungs[-1].steps <= steps
    sizes = [len(r.measured) for r in rungs]
    assert sizes == sorted(sizes, reverse=True)
