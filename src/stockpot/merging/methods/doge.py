"""DOGE: a common change to all task vectors that lowers their conflict, outside what they share.

``delta`` is found by Adam on ``sum_j sum_rows (v_j . (sum_i l_i (v_i + delta) - v_j))^2`` with
gradients projected off the shared subspace: the leading left singular vectors of those of all
tasks. ``l_i = eta / |tau_i|`` for each tensor. The loss is a quadratic of known gradient: no
automatic differentiation, no torch, any architecture. Vectors and scalars get no ``delta``.
"""

from __future__ import annotations

from typing import Any

from stockpot.merging.method import Array, Block, Integer, Real, merge_method
from stockpot.merging.methods._adam import adam
from stockpot.merging.methods._deltas import kept
from stockpot.merging.methods._matrices import add_matrix, svd, wide
from stockpot.merging.selection import threshold_passes


def _vectors(block: Block, **_: Any) -> list[Array]:
    return block.deltas


def _ranks(size: int, *, density: float, **_: Any) -> list[int]:
    return [kept(size, density)]


def shared_subspace(xp: Any, matrices: list[Array], divisor: int) -> Array:
    """Orthonormal columns (out, s) that span what the tasks' leading directions share."""
    rank = min(matrices[0].shape)
    share = max(1, rank // len(matrices))
    joined = xp.concat([svd(xp, matrix)[0][:, :share] for matrix in matrices], axis=1)
    return svd(xp, joined)[0][:, : max(1, rank // divisor)]


def conflict_gradient(xp: Any, matrices: list[Array], rates: list[float], delta: Array) -> Array:
    """Gradient of the loss with respect to ``delta`` (out, in)."""
    merged = sum(rates) * delta
    for matrix, rate in zip(matrices, rates, strict=True):
        merged = merged + rate * matrix
    gradient = xp.zeros_like(delta)
    for matrix in matrices:
        conflict = xp.sum(matrix * (merged - matrix), axis=1, keepdims=True)
        gradient += 2.0 * sum(rates) * conflict * matrix
    return gradient


@merge_method(
    "doge",
    title="DOGE (adaptive projective gradient descent)",
    formula="theta_0 + sum_i eta/|tau_i| m_i (tau_i + delta), m_i: largest entries of tau_i",
    source="Wei et al. 2025, Adaptive projective gradient descent, arXiv 2501.01230",
    base="required",
    granularity="tensor",
    passes=threshold_passes(_vectors, _ranks),
    parameters=(
        Real("eta", 0.07, 0.0, closed="neither", help="length given to each task vector"),
        Real("density", 0.3, 0.0, 1.0, closed="right", help="share of the entries that are kept"),
        Integer("subspace", 6, 1, 10_000, help="rank divided by this is the shared subspace's"),
        Integer("steps", 400, 0, 100_000, help="steps of Adam"),
        Real("rate", 1e-4, 0.0, 1.0, closed="right", help="step size of Adam"),
    ),
)
def doge(
    block: Block, *, eta: float, density: float, subspace: int, steps: int, rate: float
) -> Array:
    xp = block.xp
    shape = block.tensor.rows
    flat = [xp.reshape(delta, shape) for delta in block.deltas]
    masks = [
        xp.abs(delta) >= float(row[0])
        for delta, row in zip(flat, block.statistics["threshold"], strict=True)
    ]
    matrices = [wide(xp, delta) for delta in flat]
    norms = [float(xp.sum(matrix * matrix)) ** 0.5 for matrix in matrices]
    rates = [eta / norm if norm > 0 else 0.0 for norm in norms]
    delta = xp.zeros_like(matrices[0])
    if len(block.tensor.shape) >= 2 and any(norms) and steps:
        basis = shared_subspace(xp, matrices, subspace)
        across = xp.matrix_transpose(basis)

        def outside(x: Array) -> Array:
            slope = conflict_gradient(xp, matrices, rates, x)
            return slope - basis @ (across @ slope)

        delta = adam(xp, outside, delta, rate=rate, steps=steps)
    merged = xp.zeros_like(delta)
    for matrix, mask, each in zip(matrices, masks, rates, strict=True):
        merged += each * xp.where(mask, matrix + delta, xp.zeros_like(delta))
    return add_matrix(block, merged, 1.0)
