"""Declarations of parameters: what they accept, refuse, and say."""

from __future__ import annotations

import math

import pytest

from stockpot.errors import MethodError
from stockpot.merging.parameters import Choice, Flag, Integer, PerModel, Real, resolve

DECLARED = [
    Real("free", 1.0),
    Real("share", 0.5, 0.0, 1.0),
    Real("kept", 0.5, 0.0, 1.0, closed="right"),
    Real("lost", 0.5, 0.0, 1.0, closed="left"),
    Real("inside", 0.5, 0.0, 1.0, closed="neither"),
    Integer("steps", 3, 1, 10),
    Choice("scope", "tensor", ("tensor", "row")),
    Flag("bound", True),
    PerModel(Real("weights", 1.0, 0.0)),
]


@pytest.mark.parametrize("parameter", DECLARED, ids=lambda p: p.name)
def test_each_kind_accepts_its_valid_and_refuses_its_invalid_values(parameter):
    assert parameter.valid()
    for value in parameter.valid():
        parameter.check(value)
    assert parameter.invalid()
    for value in parameter.invalid():
        with pytest.raises(MethodError, match=f"'{parameter.name}'") as caught:
            parameter.check(value)
        assert "expected" in str(caught.value) or "values for" in str(caught.value)


def test_open_ends_are_outside():
    assert Real("p", None, 0, 1, closed="right").check(1) == 1.0
    with pytest.raises(MethodError, match=r"\(0, 1\]"):
        Real("p", None, 0, 1, closed="right").check(0)
    assert Real("p", None, 0, 1, closed="neither").range == "a number in (0, 1)"
    assert Real("p", None).range == "a number in (-inf, inf)"


def test_per_model_values_are_one_number_or_one_each():
    weights = PerModel(Real("weights", 1.0))
    assert weights.check(2, models=3) == [2.0, 2.0, 2.0]
    assert weights.check([1, 2], models=2) == [1.0, 2.0]
    assert weights.check([1, 2]) == [1.0, 2.0]
    with pytest.raises(MethodError, match="2 values for 3 models"):
        weights.check([1, 2], models=3)


def test_resolving_fills_in_defaults_and_names_what_is_wrong():
    declared = [Real("scale", 0.3), PerModel(Real("losses", None, 0.0))]
    resolved = resolve(declared, {"losses": [1, 2]}, method="m", models=2)
    assert resolved == {"scale": 0.3, "losses": [1.0, 2.0]}
    with pytest.raises(MethodError, match=r"'m' has no parameter 'scales'.*scale, losses"):
        resolve(declared, {"scales": 1}, method="m", models=2)
    with pytest.raises(MethodError, match="'m' needs a value for 'losses'"):
        resolve(declared, {}, method="m", models=2)
    with pytest.raises(MethodError, match="method 'm', parameter 'scale': got nan"):
        resolve(declared, {"scale": math.nan, "losses": 1}, method="m", models=2)
