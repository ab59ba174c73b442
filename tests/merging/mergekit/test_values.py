"""Settings become values: conditions in their order, gradients between their points."""

from __future__ import annotations

import pytest

from stockpot.errors import MethodError
from stockpot.merging.mergekit.values import converted, evaluated, resolved
from stockpot.merging.parameters import Flag, Integer, Real

NUMBER, FLAG, WHOLE = Real("x", 1.0), Flag("x", False), Integer("x", 10)


@pytest.mark.parametrize(
    ("setting", "t", "expected"),
    [
        (3, 0.7, 3.0),
        ("1e-5", 0, 1e-5),
        (True, 0, 1.0),
        ([0, 1], 0.25, 0.25),
        ([0, 1, 0], 0.75, 0.5),
        ([4], 0.3, 4.0),
        (["1e-1", 0.3], 0.5, 0.2),
        ([0, 0.5, 0.3, 0.7, 1], 1.0, 1.0),
        ([0, 0.5, 0.3, 0.7, 1], 1 / 3, 0.5 + (0.3 - 0.5) / 3),
        ([], 0.5, None),
        ({"value": 2}, 0, 2.0),
        ({"filter": "other", "value": 2}, 0, None),
        ([{"filter": "mlp", "value": 2}, {"value": 3}], 0, 2.0),
        ([{"filter": "attn", "value": 2}, {"value": [3, 5]}], 0.5, 4.0),
        ([{"value": 3}, {"filter": "mlp", "value": 2}], 0, 3.0),
        ([{"filter": "*", "value": 2}, {"value": 3}], 0, 2.0),
        ([{"filter": "layers.1.", "value": 2}], 0, 2.0),
        ([{"filter": "mlp.*", "value": 2}], 0, None),
    ],
)
def test_numbers(setting, t, expected):
    assert evaluated(NUMBER, setting, "layers.1.mlp.weight", t) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("setting", "t", "expected"),
    [(1, 0, True), ("off", 0, False), (0.0, 0, False), ([False, True], 0.9, False)],
)
def test_flags_are_not_interpolated(setting, t, expected):
    assert evaluated(FLAG, setting, "", t) is expected


def test_whole_numbers():
    assert converted(WHOLE, "5") == 5
    assert evaluated(WHOLE, [2, 4], "", 0.5) == 3
    with pytest.raises(MethodError):
        evaluated(WHOLE, [2, 4], "", 0.25)


@pytest.mark.parametrize("value", [2, "maybe", None, [], 0.5])
def test_no_flags(value):
    with pytest.raises(MethodError):
        converted(FLAG, value)


def test_who_is_asked_first():
    model, file = {"x": [{"filter": "mlp", "value": 2}]}, {"x": 3}
    assert resolved(NUMBER, [model, {}, file], "mlp", 0) == 2.0
    assert resolved(NUMBER, [model, None, file], "attn", 0) == 3.0
    assert resolved(NUMBER, [model], "attn", 0) == 1.0
    with pytest.raises(MethodError, match="no value for 'attn'"):
        resolved(Real("x", None), [model], "attn", 0)
