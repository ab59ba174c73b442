"""Adam, for the methods whose gradient is known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stockpot.merging.method import Array


def adam(
    xp: Any, gradient: Callable[[Array], Array], x: Array, *, rate: float, steps: int
) -> Array:
    """``x`` after ``steps`` of Adam (Kingma and Ba 2015, algorithm 1) with the usual constants."""
    x = xp.asarray(x, copy=True)
    first, second = xp.zeros_like(x), xp.zeros_like(x)
    for step in range(1, steps + 1):
        slope = gradient(x)
        square = 0.001 * slope
        square *= slope
        second *= 0.999
        second += square
        slope *= 0.1
        first *= 0.9
        first += slope
        size = xp.sqrt(second / (1.0 - 0.999**step))
        size += 1e-8
        change = (rate / (1.0 - 0.9**step)) * first
        change /= size
        x -= change
    return x
