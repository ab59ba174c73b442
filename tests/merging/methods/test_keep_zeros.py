"""Pruned parents stay pruned, whatever the method."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.merging import merge
from stockpot.merging.testing import MethodCase, contract

from .references import REFERENCES


def ties(base, models, *, zeros, **values):
    """Weights of the examples are nowhere zero: nothing changes."""
    return REFERENCES["ties"](base, models, **values)


CASES = [
    pytest.param(case, check, id=f"{case.name}-{check.__name__}")
    for case in (
        MethodCase("keep_zeros+ties", {}, ties),
        MethodCase("keep_zeros+lines+stock", {"alpha": 0.25, "beta": 0.5}),
    )
    for check in contract(case)
]


@pytest.mark.parametrize(("case", "check"), CASES)
def test_weights_without_zeros_are_merged_as_without(case, check):
    check(case)


def pruned(seed=0, share=0.5):
    """A base, and two models that were trained from it after pruning; one more with own zeros."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((12, 10)).astype(np.float32)
    mask = rng.random(base.shape) > share
    models = [mask * (base + 0.1 * rng.standard_normal(base.shape).astype("f4")) for _ in "ab"]
    other = models[0] * (rng.random(base.shape) > 0.2)
    return {"w": base}, [{"w": x.astype(np.float32)} for x in models], {"w": other}


@pytest.mark.parametrize("name", ["linear", "task_arithmetic", "ties", "tsv", "iso_c", "ace"])
def test_zeros_of_all_models_are_zeros_of_the_result(name):
    base, models, _ = pruned()
    merged = merge(models, method=f"keep_zeros+{name}", base=base).state["w"]
    plain = merge(models, method=name, base=base).state["w"]
    zero = (models[0]["w"] == 0) & (models[1]["w"] == 0)
    assert zero.mean() == pytest.approx(0.5, abs=0.15)
    assert np.array_equal(merged, np.where(zero, 0, plain))


def test_which_zeros_are_kept():
    _, (one, two), three = pruned()
    for zeros, expected in (
        ("all", (one["w"] == 0) & (two["w"] == 0) & (three["w"] == 0)),
        ("any", (one["w"] == 0) | (two["w"] == 0) | (three["w"] == 0)),
        ("first", three["w"] == 0),
    ):
        merged = merge([three, one, two], method="keep_zeros", zeros=zeros).state["w"]
        assert np.array_equal(merged == 0, expected)
