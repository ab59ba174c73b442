"""What the methods on task vectors share: common parameters, and how sparse vectors become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stockpot.merging.method import Array, Block, Choice, PerModel, Real, sum_arrays

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
    deltas: list[Array],
    *,
    weights: Sequence[float],
    scale: float,
    consensus: str,
    tie: int = 1,
) -> Array:
    """``theta_0 + scale * consensus_i(w_i tau_i)``; overwrites ``deltas``."""
    for delta, weight in zip(deltas, weights, strict=True):
        if weight != 1.0:
            delta *= weight
    if consensus == "sum":
        merged = sum_arrays(deltas)
    else:
        merged = agreeing(block.xp, deltas, weights, mean=consensus == "agreeing_mean", tie=tie)
    if scale != 1.0:
        merged *= scale
    merged += block.base
    return merged


def elected_signs(xp: Any, deltas: Sequence[Array], tie: int) -> Array:
    """+1 or -1: the sign of the sum over models, ``tie`` where that is zero."""
    total = deltas[0] * float(tie)
    for delta in deltas[1:]:
        total = total + delta if tie > 0 else total - delta
    signs = xp.sign(total)
    signs += signs == 0
    return signs if tie > 0 else -signs


def agreeing(
    xp: Any, deltas: list[Array], weights: Sequence[float], *, mean: bool, tie: int
) -> Array:
    """Mean (``sum_i w_i tau_i / sum_i w_i``) or sum over the entries that have the elected sign.

    ``deltas`` come weighted, and are overwritten.
    """
    signs = elected_signs(xp, deltas, tie)
    total: Array = None
    divisor: Array = None
    for delta, weight in zip(deltas, weights, strict=True):
        delta *= signs
        agrees = delta > 0
        delta *= agrees
        if total is None:
            total, divisor = delta, xp.zeros_like(delta)
        else:
            total += delta
        if mean:
            if weight == 1.0:
                divisor += agrees
            else:
                divisor += xp.astype(agrees, divisor.dtype) * weight
    total *= signs
    if mean:
        divisor += divisor == 0
        total /= divisor
    return total
