"""TSV-M: keep each task's leading singular vectors, made orthogonal to those of the others.

Tensors with more than two axes are matrices (out, rest); vectors and scalars are averaged.
"""

from __future__ import annotations

from stockpot.merging.method import Array, Block, merge_method
from stockpot.merging.methods._deltas import SCALE
from stockpot.merging.methods._matrices import (
    add_matrix,
    is_matrix,
    mean_delta,
    nearest_orthonormal,
    svd,
    task_matrices,
)


@merge_method(
    "tsv",
    title="TSV-M (task singular vectors)",
    formula="theta_0 + scale U S V^T; S: leading r/k singular values of each tau_i; "
    "U, V: their vectors side by side, made orthonormal",
    source="Gargiulo et al. 2025, Task singular vectors, arXiv 2412.00081, algorithm 1",
    base="required",
    granularity="tensor",
    parameters=(SCALE,),
)
def tsv(block: Block, *, scale: float) -> Array:
    if not is_matrix(block):
        return mean_delta(block, scale)
    xp = block.xp
    share = max(1, min(block.tensor.rows) // block.count)
    parts = [svd(xp, matrix) for matrix in task_matrices(block)]
    left = xp.concat([u[:, :share] for u, _, _ in parts], axis=1)
    values = xp.concat([s[:share] for _, s, _ in parts])
    right = xp.concat([vh[:share, :] for _, _, vh in parts], axis=0)
    merged = (nearest_orthonormal(xp, left) * values) @ nearest_orthonormal(xp, right)
    return add_matrix(block, merged, scale)
