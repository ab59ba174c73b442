"""WUDI: the task vector that interferes least with each task's own directions.

The loss is a quadratic whose gradient is known, so no automatic differentiation is needed, and its
minimum nearest to the start has a closed form (``solver="exact"``). Works on any tensor with two
axes or more (as a matrix (out, rest)); vectors and scalars are averaged.
"""

from __future__ import annotations

from typing import Any

from stockpot.merging.method import Array, Block, Choice, Integer, Real, merge_method
from stockpot.merging.methods._adam import adam
from stockpot.merging.methods._deltas import SCALE
from stockpot.merging.methods._matrices import (
    add_matrix,
    is_matrix,
    mean_delta,
    task_matrices,
    total_of,
)


def interference(xp: Any, matrices: list[Array]) -> tuple[Array, Array]:
    """C = sum_i tau_i^T tau_i / |tau_i|^2 and D = sum_i tau_i tau_i^T tau_i / |tau_i|^2.

    The gradient of the loss is ``2 (tau C - D)``. Zero task vectors take no part.
    """
    curvature: Array = None
    pull = xp.zeros_like(matrices[0])
    for matrix in matrices:
        norm = float(xp.sum(matrix * matrix))
        product = xp.matrix_transpose(matrix) @ matrix / (norm or 1.0)
        curvature = product if curvature is None else curvature + product
        pull = pull + matrix @ product
    return curvature, pull


@merge_method(
    "wudi",
    title="WUDI (whoever started the interference should end it)",
    formula="theta_0 + scale argmin_tau sum_i |(tau - tau_i) tau_i^T|^2 / |tau_i|^2, "
    "from tau = sum_i tau_i",
    source="Cheng et al. 2025, WUDI-Merging, arXiv 2503.08099",
    base="required",
    granularity="tensor",
    parameters=(
        Choice(
            "solver",
            "adam",
            ("adam", "exact"),
            help="as many steps as the paper, or the minimum nearest to the start",
        ),
        Integer("steps", 300, 0, 100_000, help="steps of Adam"),
        Real("rate", 1e-5, 0.0, 1.0, closed="right", help="step size of Adam"),
        SCALE,
    ),
)
def wudi(block: Block, *, solver: str, steps: int, rate: float, scale: float) -> Array:
    if not is_matrix(block):
        return mean_delta(block, scale)
    xp, matrices = block.xp, task_matrices(block)
    start = total_of(matrices)
    curvature, pull = interference(xp, matrices)
    if solver == "exact":
        merged = start + (pull - start @ curvature) @ xp.linalg.pinv(curvature)
    else:
        merged = adam(xp, lambda tau: 2.0 * (tau @ curvature - pull), start, rate=rate, steps=steps)
    return add_matrix(block, merged, scale)
