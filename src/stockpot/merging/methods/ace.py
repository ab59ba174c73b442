"""ACE: RegMean's closed form without data, the covariances of the inputs taken from the updates.

Rows of a task vector are sums of its inputs, so that the covariance of the rows stands for that of
the inputs. Where the sizes of the task vectors differ much (``threshold``), covariances are
normalised, and the leading directions of what came out are added once more, all equally strong.

Equations 5 to 19 of the paper. As they say, the mean row of a task vector takes part in the sizes
and the refinement alone. Tensors with more than two axes are matrices (out, rest); vectors and
scalars are averaged. Zero task vectors take no part.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.merging.method import Array, Block, Real, merge_method
from stockpot.merging.methods._deltas import SCALE
from stockpot.merging.methods._matrices import (
    add_matrix,
    identity,
    is_matrix,
    mean_delta,
    svd,
    task_matrices,
    total_of,
)


def heterogeneous(energies: list[float], threshold: float) -> bool:
    """Whether the logarithms of the energies vary more than ``threshold`` times their mean
    squared (equation 7)."""
    logs = np.log(energies)
    return bool(np.var(logs) > threshold * np.mean(logs) ** 2)


def _centered(xp: Any, matrix: Array) -> Array:
    return matrix - xp.mean(matrix, axis=0, keepdims=True)


def _refined(
    xp: Any, merged: Array, matrices: list[Array], scaled: list[Array], mean: Array, share: float
) -> Array:
    """Equations 16 to 19: ``merged`` with its leading directions added, all equally strong."""
    fused = merged
    for matrix, covariance in zip(matrices, scaled, strict=True):
        fused = fused + matrix @ (covariance - mean)
    u, s, vh = svd(xp, fused)
    rank = max(1, int(share * int(s.shape[0])))
    return merged + float(xp.mean(s[:rank])) * (u[:, :rank] @ vh[:rank, :])


@merge_method(
    "ace",
    title="ACE-Merging (adaptive covariance estimation)",
    formula="theta_0 + scale (sum_i c_i R_i) (sum_i R_i + C)^-1 (+ s U_k V_k^T), c_i = tau_i - its "
    "mean row, R_i = c_i^T c_i + epsilon 1, C: rows all equal to the mean row of sum_i c_i^T c_i",
    source="Xu et al. 2026, ACE-Merging, arXiv 2603.02945, equations 5 to 19",
    base="required",
    granularity="tensor",
    parameters=(
        Real(
            "epsilon",
            1e-5,
            0.0,
            closed="neither",
            help="added to the diagonal; paper: GPT-2 0.04, RoBERTa-Base 0.0002, others 0.00001",
        ),
        Real(
            "threshold", 0.3, 0.0, help="variation of the sizes from which covariances are scaled"
        ),
        Real("rank_share", 0.3, 0.0, 1.0, help="share of the directions that are added once more"),
        SCALE,
    ),
)
def ace(
    block: Block, *, epsilon: float, threshold: float, rank_share: float, scale: float
) -> Array:
    if not is_matrix(block):
        return mean_delta(block, scale)
    xp = block.xp
    matrices = [matrix for matrix in task_matrices(block) if bool(xp.any(matrix != 0))]
    if not matrices:
        return block.base
    one = identity(xp, matrices[0])
    energies = [float(xp.sum(matrix * matrix)) for matrix in matrices]
    differ = heterogeneous(energies, threshold)
    centered = [_centered(xp, matrix) for matrix in matrices]
    scaled, regular = [], []
    for matrix in centered:
        covariance = xp.matrix_transpose(matrix) @ matrix
        trace = float(xp.sum(covariance * one)) if differ else 1.0
        scaled.append(covariance / (trace or 1.0))
        regular.append(scaled[-1] + (epsilon / (trace or 1.0)) * one)
    total = total_of(regular)
    prior = xp.mean(total_of(scaled), axis=0, keepdims=True)
    if differ:
        prior = prior / (sum(energies) / len(energies))
    moved = total_of([matrix @ right for matrix, right in zip(centered, regular, strict=True)])
    # x (total + prior) = moved, solved in its transpose.
    merged = xp.matrix_transpose(
        xp.linalg.solve(xp.matrix_transpose(total + prior), xp.matrix_transpose(moved))
    )
    if differ:
        merged = _refined(xp, merged, matrices, scaled, total / len(matrices), rank_share)
    return add_matrix(block, merged, scale)
