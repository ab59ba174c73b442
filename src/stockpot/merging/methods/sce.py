"""SCE: select the positions where models differ most, calculate model weights, erase minorities."""

from __future__ import annotations

from typing import Any

from stockpot.merging.method import (
    Array,
    Block,
    Pass,
    Real,
    Statistics,
    Total,
    merge_method,
    sum_arrays,
)
from stockpot.merging.methods._deltas import SCALE, elected_signs, kept, scale_by
from stockpot.merging.selection import threshold_passes


def variance(xp: Any, deltas: list[Array]) -> Array:
    """Variance over models, at each position, times their number.

    The last bits are rounded off: positions of equal variance must stay equal, whatever the order
    of the models that has them.
    """
    mean = xp.asarray(deltas[0], copy=True)
    for delta in deltas[1:]:
        mean += delta
    mean /= len(deltas)
    total = xp.zeros_like(mean)
    for delta in deltas:
        distance = delta - mean
        distance *= distance
        total += distance
    # Veltkamp's splitting keeps the upper 16 of 24 bits (33 of 53).
    upper = total * (2.0**8 + 1.0 if total.dtype == xp.float32 else 2.0**20 + 1.0)
    return upper - (upper - total)


def _variances(block: Block, **_: Any) -> list[Array]:
    return [variance(block.xp, block.deltas)]


def _rank(size: int, *, density: float, **_: Any) -> list[int]:
    return [kept(size, density)]


def _selected(block: Block) -> list[Array]:
    deltas = block.deltas
    threshold = float(block.statistics["threshold"][0][0])
    if threshold > 0:
        mask = variance(block.xp, deltas) >= threshold
        for delta in deltas:
            delta *= mask
    return deltas


def _squares(block: Block, **_: Any) -> dict[str, Total]:
    return {
        f"squares_{model}": block.total(delta * delta)
        for model, delta in enumerate(_selected(block))
    }


def _shares(statistics: Statistics, tensor: Any, **_: Any) -> Statistics:
    squares: list[float] = []
    while (name := f"squares_{len(squares)}") in statistics:
        squares.append(statistics.pop(name))
    total = sum(squares)
    statistics["shares"] = [each / total if total > 0 else 1.0 / len(squares) for each in squares]
    return statistics


@merge_method(
    "sce",
    title="SCE (select, calculate, erase)",
    formula="theta_0 + scale sum_i e_i s_i tau'_i / sum_i e_i s_i, s_i ~ ||tau'_i||^2, "
    "e_i = [tau'_i has the sign of the sum]",
    source="Wan et al. 2024, FuseChat, arXiv 2408.07990",
    base="required",
    passes=(*threshold_passes(_variances, _rank), Pass(_squares, _shares)),
    parameters=(
        Real(
            "density",
            0.1,
            0.0,
            1.0,
            closed="right",
            help="share of the positions selected, those of largest variance over models",
        ),
        SCALE,
    ),
    report=("shares",),
)
def sce(block: Block, *, density: float, scale: float) -> Array:
    xp, deltas = block.xp, _selected(block)
    signs = elected_signs(xp, deltas, 1)
    # Shares among those that agree: exactly one where only one does.
    agreeing = []
    divisor = xp.zeros_like(signs)
    for delta, share in zip(deltas, block.statistics["shares"], strict=True):
        agreeing.append(xp.astype(delta * signs > 0, delta.dtype))
        agreeing[-1] *= share
        divisor += agreeing[-1]
    divisor += divisor == 0
    for delta, share in zip(deltas, agreeing, strict=True):
        share /= divisor
        delta *= share
    total = sum_arrays(deltas)
    scale_by(total, scale)
    total += block.base
    return total
