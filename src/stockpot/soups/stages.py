"""What is searched, one stage after the other: which numbers, and the blend that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stockpot.errors import InputError, MethodError
from stockpot.merging.method import get_method
from stockpot.merging.parameters import PerModel, Real
from stockpot.soups.blend import Blend, Blends
from stockpot.soups.search import HIGH, LOW, Vector

_REACH = 1.0  # of a parameter without an end, how far from its default is looked
_EDGE = 1e-3  # of its range, how near to an end that is not its own


@dataclass(frozen=True)
class SearchStage:
    """``blend``: of a vector between ``low`` and ``high``, its name and label; ``start``: where to
    begin, from the blend that leads. ``layers``: tensors that share coefficients; none where the
    numbers are no coefficients."""

    name: str
    label: str
    blend: Callable[[Vector, str, str], Blend]
    start: Callable[[Blend], Vector]
    low: float = LOW
    high: float = HIGH
    layers: tuple[tuple[int, ...], ...] = ()

    @property
    def learns(self) -> bool:
        """Whether it goes by gradient."""
        return self.name.startswith("learnt")


def coefficient_stage(name: str, blends: Blends, layers: Sequence[Sequence[int]]) -> SearchStage:
    """One coefficient a model and group of tensors."""

    def blend(vector: Vector, name: str, label: str) -> Blend:
        values = np.zeros((blends.count, blends.tensors))
        for own, group in zip(vector.reshape(len(layers), blends.count), layers, strict=True):
            values[:, list(group)] = own[:, None]
        return blends.blend(name, label, values)

    def start(leader: Blend) -> Vector:
        return np.concatenate([leader.coefficients[:, list(g)].mean(axis=1) for g in layers])

    what = "one coefficient a model" if len(layers) == 1 else f"{len(layers)} layer groups"
    label = f"{'learnt by gradient' if name.startswith('learnt') else 'search'}, {what}"
    return SearchStage(name, label, blend, start, layers=tuple(map(tuple, layers)))


def method_stage(method: str, blends: Blends) -> SearchStage:
    """The numbers of a merge method, each the same for all models; weights aside.

    Raises ``InputError`` for a method that these models cannot be merged by, or that has no such
    numbers.
    """
    try:
        declared = get_method(method)
        declared.resolve({}, models=blends.count)
    except MethodError as error:
        raise InputError(f"methods: {error.message}", hint=error.hint) from error
    if declared.base == "required" and not blends.has_base:
        raise InputError(f"methods: '{method}' needs a base")
    reals = [one.each if isinstance(one, PerModel) else one for one in declared.parameters]
    searched = [
        one
        for one in reals
        if isinstance(one, Real) and one.name != "weights" and one.default is not None
    ]
    if not searched:
        raise InputError(f"methods: '{method}' has no numbers to search")

    def blend(vector: Vector, name: str, label: str) -> Blend:
        values = {one.name: _value(one, share) for one, share in zip(searched, vector, strict=True)}
        shown = ", ".join(f"{key} {value:.3g}" for key, value in values.items())
        shares = np.full(blends.count, 1.0 / blends.count)
        return blends.blend(name, f"{method}, {shown}", shares, method, tuple(values.items()))

    def start(leader: Blend) -> Vector:
        shares = [(float(one.default or 0.0) - _ends(one)[0]) / _width(one) for one in searched]
        return np.array(shares)

    names = ", ".join(one.name for one in searched)
    return SearchStage(
        f"search:{method}", f"search, {names} of {method}", blend, start, low=0.0, high=1.0
    )


def _ends(one: Real) -> tuple[float, float]:
    assert one.default is not None
    low = one.low if np.isfinite(one.low) else one.default - _REACH
    high = one.high if np.isfinite(one.high) else one.default + _REACH
    return low, high


def _width(one: Real) -> float:
    low, high = _ends(one)
    return high - low


def _value(one: Real, share: float) -> float:
    low, _ = _ends(one)
    first = _EDGE if one.low == low and one.closed in ("right", "neither") else 0.0
    last = 1.0 - (_EDGE if one.closed in ("left", "neither") else 0.0)
    return float(low + _width(one) * min(max(share, first), last))


def slope_rows(choose: Any, number: int) -> Any:
    """The rows of a step of a gradient: an eighth of those that choose, in turn."""
    if choose is None:
        return None
    size = min(len(choose), max(8, -(-len(choose) // 8)))
    return choose[np.arange(number * size, (number + 1) * size) % len(choose)]
