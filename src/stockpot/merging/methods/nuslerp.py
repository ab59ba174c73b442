"""NuSLERP: SLERP of task vectors, and by weights instead of a position.

Without a base the models themselves are interpolated. ``scope="row"`` does so for each
row (output channel) by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.errors import MethodError
from stockpot.merging.method import (
    Array,
    Block,
    Choice,
    Pass,
    PerModel,
    Real,
    Statistics,
    Total,
    merge_method,
)
from stockpot.merging.methods._sphere import (
    add_up,
    angle,
    difference_gram,
    differences,
    slerp_shares,
)


def _vectors(block: Block) -> list[Array]:
    return block.models if block.base is None else block.deltas


def coefficients(gram: np.ndarray, weights: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the two vectors, from ``gram`` (..., 2, 2) of the first and the difference."""
    total = sum(weights)
    if total == 0:
        raise MethodError("parameter 'weights': both are zero", hint="give other weights")
    omega, *_ = angle(gram)
    return slerp_shares(omega, weights[1] / total)


def _gram(block: Block, **_: Any) -> dict[str, Total]:
    return difference_gram(block, _vectors(block))


def _finish(statistics: Statistics, tensor: Any, *, weights: list[float], **_: Any) -> Statistics:
    first, second = coefficients(statistics["gram"], weights)
    return {"coefficients": (float(first), float(second))}


@merge_method(
    "nuslerp",
    title="NuSLERP (spherical interpolation of task vectors)",
    formula="theta_0 + slerp(tau_1, tau_2; t), t = w_2 / (w_1 + w_2)",
    source="Shoemake 1985, as for slerp; theta instead of tau without a base",
    base="optional",
    models=(2, 2),
    granularity=lambda parameters: "row" if parameters["scope"] == "row" else "block",
    passes=lambda parameters: () if parameters["scope"] == "row" else (Pass(_gram, _finish),),
    parameters=(
        PerModel(Real("weights", 1.0, 0.0, closed="left"), help="weight of each model"),
        Choice("scope", "tensor", ("tensor", "row"), help="what is one vector"),
    ),
    report=("coefficients",),
)
def nuslerp(block: Block, *, weights: list[float], scope: str) -> Array:
    vectors = differences(_vectors(block))
    factors: tuple[Any, ...]
    if scope == "row":
        gram = np.empty((int(vectors[0].shape[0]), 2, 2))
        for i, j in ((0, 0), (0, 1), (1, 1)):
            gram[:, i, j] = gram[:, j, i] = block.row_sum(vectors[i], vectors[j])
        factors = tuple(block.like(each)[:, None] for each in coefficients(gram, weights))
    else:
        factors = block.statistics["coefficients"]
    merged = add_up(vectors, factors)
    if block.base is not None:
        merged += block.base
    return merged
