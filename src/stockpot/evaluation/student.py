"""Quantiles of Student's t with any degrees of freedom, without scipy."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_MANY = 1e6


@lru_cache(maxsize=4096)
def quantile(tail: float, freedom: float) -> float:
    """The value that t exceeds with probability ``tail`` (0 < tail <= 0.5), to nine digits.

    ``freedom``: degrees of freedom, 0 < freedom; a million or more is the normal distribution.
    """
    if not 0.0 < tail <= 0.5 or not freedom > 0.0:
        raise ValueError(f"no quantile for tail {tail} with {freedom} degrees of freedom")
    if freedom >= _MANY:
        return -NormalDist().inv_cdf(tail)
    high = 1.0
    while upper_tail(high, freedom) > tail:
        high *= 2.0
    low = 0.0
    while high - low > 1e-10 * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if upper_tail(middle, freedom) > tail else (low, middle)
    return (low + high) / 2.0


def upper_tail(value: float, freedom: float) -> float:
    """Probability that t exceeds ``value`` >= 0: half an incomplete beta function."""
    share = freedom / (freedom + value * value)
    return 0.5 * _incomplete_beta(freedom / 2.0, 0.5, share)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularized, by its continued fraction (Press et al. 2007, Numerical Recipes, 6.4)."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(log + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _fraction(a, b, x) / a
    return 1.0 - front * _fraction(b, a, 1.0 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    """Lentz's method."""
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    value = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + term * d
            c = 1.0 + term / c
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return value
