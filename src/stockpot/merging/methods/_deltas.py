"""What the methods on task vectors share: common parameters, and how sparse vectors become one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from stockpot.merging.method import Array, Block, Choice, PerModel, Real, sum_arrays

Vote = Callable[[Sequence[Array]], Array]

SCALE = Real("scale", 1.0, help="how much of the merged task vector is added to the base")
WEIGHTS = PerModel(
    Real("weights", 1.0, 0.0, closed="left"), help="weight of each task vector, before the vote"
)
CONSENSUS = Choice(
    "consensus",
    "sum",
    ("sum", "agreeing_mean", "agreeing_sum"),
    help="sum of all, or TIES: mean or sum of the entries whose sign is that of the sum",
)


def density(default: float, help: str = "share of the entries that are kept") -> PerModel:
    """The declaration of ``density``, in (0, 1]."""
    return PerModel(Real("density", default, 0.0, 1.0, closed="right"), help=help)


def kept(size: int, density: float) -> int:
    """How many of ``size`` entries a density keeps: the nearest whole number, but one at least."""
    return max(1, int(density * size + 0.5))


def add_consensus(
    block: Block,
    deltas: Iterable[Array],
    *,
    weights: Sequence[float],
    scale: float,
    consensus: str,
    tie: int = 1,
    vote: Vote | None = None,
) -> Array:
    """``theta_0 + scale * consensus_i(w_i tau_i)``; overwrites ``deltas``."""
    mean = consensus == "agreeing_mean"
    if not (mean and _equal(weights)):
        deltas = _weighted(deltas, weights)
    if consensus == "sum":
        merged = sum_arrays(deltas)
    else:
        merged = agreeing(block.xp, list(deltas), weights, mean=mean, tie=tie, vote=vote)
    scale_by(merged, scale)
    merged += block.base
    return merged


def _weighted(deltas: Iterable[Array], weights: Sequence[float]) -> Iterator[Array]:
    for delta, weight in zip(deltas, weights, strict=True):
        if weight != 1.0:
            delta *= weight
        yield delta


def scale_by(x: Array, factor: float) -> None:
    """``x *= factor`` in place, float32 arrays as if the factor were not rounded to float32.

    Task vectors of 16-bit models are whole multiples of a grid, so that a sum times 0.3 is often
    exactly half way between two results. A factor rounded to 24 bits would round all those the same
    wrong way. Three parts of 12 bits make exact products with numbers of up to 12 bits.
    """
    if factor == 1.0:
        return
    parts = _parts(factor) if x.dtype.itemsize == 4 else [factor]
    products = [x * part for part in parts[1:]]
    x *= parts[0]
    for product in products:
        x += product


def _parts(factor: float) -> list[float]:
    """``factor`` as a sum of at most three numbers of 12 bits, the last one rounded."""
    parts: list[float] = []
    while factor and len(parts) < 3:
        mantissa, exponent = math.frexp(factor)
        parts.append(math.ldexp(math.trunc(mantissa * 4096), exponent - 12))
        factor -= parts[-1]
    return parts or [0.0]


def elected_signs(xp: Any, deltas: Sequence[Array], tie: int) -> Array:
    """+1 or -1: the sign of the sum over models, ``tie`` where that is zero."""
    total = sum_of(deltas)
    signs = xp.ones_like(total)
    flip = _bits(xp, signs)
    flip ^= _negative(xp, total, tie)
    return signs


def agreeing(
    xp: Any,
    deltas: Sequence[Array],
    weights: Sequence[float],
    *,
    mean: bool,
    tie: int,
    vote: Vote | None = None,
) -> Array:
    """Mean (``sum_i w_i tau_i / sum_i w_i``) or sum over the entries that have the elected sign.

    ``deltas`` come weighted, unless all weights of a mean are equal, and are overwritten. ``vote``
    makes of them what the sign is elected by, in new memory; by default their sum.
    """
    negative = _negative(xp, (vote or sum_of)(deltas), tie)
    # Bytes count fastest, and hold 255 models.
    equal = _equal(weights) and len(deltas) < 256
    total: Array = None
    divisor: Array = None
    for delta, weight in zip(deltas, weights, strict=True):
        flip = _bits(xp, delta)
        flip ^= negative
        agrees = delta > 0
        delta *= agrees
        share = agrees.view(xp.uint8)
        if not equal:
            share = xp.astype(agrees, delta.dtype)
            share *= weight
        if total is None:
            total, divisor = delta, share
        else:
            total += delta
            divisor += share
    flip = _bits(xp, total)
    flip ^= negative
    if mean:
        divisor += divisor == 0
        total /= xp.astype(divisor, total.dtype)
    return total


def _equal(weights: Sequence[float]) -> bool:
    return len(set(weights)) == 1 and weights[0] > 0


def sum_of(deltas: Sequence[Array]) -> Array:
    """The sum in new memory."""
    total = deltas[0] + deltas[1] if len(deltas) > 1 else deltas[0] + 0.0
    for delta in deltas[2:]:
        total += delta
    return total


def _bits(xp: Any, x: Array) -> Array:
    """The same memory as integers, whose lowest value is the sign bit alone."""
    return x.view(xp.int32 if x.dtype.itemsize == 4 else xp.int64)


def _negative(xp: Any, total: Array, tie: int) -> Array:
    """The sign bit where the elected sign is negative, else 0. Overwrites ``total``.

    Where a sum is -0, all its terms are zero and any sign will do.
    """
    if tie < 0:
        total *= -1.0
        total += 0.0  # -0, which was a tie, becomes +0
    signs = _bits(xp, total)
    if tie < 0:
        signs ^= -1
    signs &= xp.iinfo(signs.dtype).min
    return signs
