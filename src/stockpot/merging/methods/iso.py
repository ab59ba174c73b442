"""Iso-C and Iso-CTS: the sum of the task vectors with all singular values made equal.

Iso-C flattens the spectrum of the sum. Iso-CTS first replaces the weakest directions of the sum
by the leading directions of each task that the strong ones do not hold.
Tensors with more than two axes are matrices (out, rest); vectors and scalars are averaged.
"""

from __future__ import annotations

from typing import Any

from stockpot.merging.method import Array, Block, Real, merge_method
from stockpot.merging.methods._matrices import (
    add_matrix,
    is_matrix,
    mean_delta,
    nearest_orthonormal,
    svd,
    task_matrices,
    total_of,
)

SCALE = Real("scale", 1.3, help="the paper tunes it; 1.3 to 1.5 is usual for 8 tasks")


def _mean(xp: Any, values: Array) -> float:
    return float(xp.mean(values))


@merge_method(
    "iso_c",
    title="Iso-C (isotropic merging in the common subspace)",
    formula="theta_0 + scale mean(S) U V^T, U S V^T = sum_i tau_i",
    source="Marczak et al. 2025, No task left behind, arXiv 2502.04959",
    base="required",
    granularity="tensor",
    parameters=(SCALE,),
)
def iso_c(block: Block, *, scale: float) -> Array:
    if not is_matrix(block):
        return mean_delta(block, scale)
    xp = block.xp
    u, s, vh = svd(xp, total_of(task_matrices(block)))
    return add_matrix(block, (u @ vh) * _mean(xp, s), scale)


def common_rank(rank: int, tasks: int, common: float) -> int:
    """Directions of the sum that stay, such that the rest is shared equally by the tasks."""
    specific = int((rank - int(rank * common)) / tasks + 0.5) * tasks
    return rank - min(specific, rank // tasks * tasks)


@merge_method(
    "iso_cts",
    title="Iso-CTS (isotropic merging in common and task-specific subspaces)",
    formula="theta_0 + scale mean(S) U V^T; U, S, V: leading part of sum_i tau_i and of each tau_i "
    "outside it, made orthonormal",
    source="Marczak et al. 2025, No task left behind, arXiv 2502.04959",
    base="required",
    granularity="tensor",
    parameters=(
        SCALE,
        Real("common", 0.8, 0.0, 1.0, help="share of the directions taken from the sum"),
    ),
)
def iso_cts(block: Block, *, scale: float, common: float) -> Array:
    if not is_matrix(block):
        return mean_delta(block, scale)
    xp, matrices = block.xp, task_matrices(block)
    rank = min(block.tensor.rows)
    shared = common_rank(rank, block.count, common)
    share = (rank - shared) // block.count
    u, s, vh = svd(xp, total_of(matrices))
    common_u = u[:, :shared]
    left, values, right = [common_u], [s[:shared]], [vh[:shared, :]]
    for matrix in matrices:
        u, s, vh = svd(xp, matrix - common_u @ (xp.matrix_transpose(common_u) @ matrix))
        left.append(u[:, :share])
        values.append(s[:share])
        right.append(vh[:share, :])
    merged = nearest_orthonormal(xp, xp.concat(left, axis=1)) @ nearest_orthonormal(
        xp, xp.concat(right, axis=0)
    )
    return add_matrix(block, merged * _mean(xp, xp.concat(values)), scale)
