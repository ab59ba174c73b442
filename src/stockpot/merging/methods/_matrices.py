"""Task vectors of a tensor as matrices (out, in): what the methods by singular vectors share."""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.merging.method import Array, Block
from stockpot.merging.methods._deltas import scale_by


def wide(xp: Any, x: Array) -> Array:
    """``x`` in float64."""
    return xp.astype(x, xp.float64)


def identity(xp: Any, like: Array) -> Array:
    """The unit matrix with as many columns as ``like``, float64, on its device."""
    device = None if isinstance(like, np.ndarray) else like.device
    return xp.eye(like.shape[1], dtype=xp.float64, device=device)


def total_of(matrices: list[Array]) -> Array:
    """Their sum, in new memory where there are several."""
    total = matrices[0]
    for matrix in matrices[1:]:
        total = total + matrix
    return total


def is_matrix(block: Block) -> bool:
    """Whether the tensor has two axes or more, and elements."""
    return len(block.tensor.shape) >= 2 and block.tensor.size > 0


def task_matrices(block: Block) -> list[Array]:
    """Task vectors as float64 matrices: rows are output channels, further axes are joined."""
    xp = block.xp
    return [wide(xp, xp.reshape(delta, block.tensor.rows)) for delta in block.deltas]


def add_matrix(block: Block, matrix: Array, scale: float) -> Array:
    """``theta_0 + scale * matrix`` in the shape and dtype of the block."""
    merged = block.xp.reshape(matrix, block.tensor.shape) * scale
    origin: Array = block.base
    return block.xp.astype(wide(block.xp, origin) + merged, origin.dtype)


def mean_delta(block: Block, scale: float) -> Array:
    """``theta_0 + scale mean_i(tau_i)``: what these methods do with vectors and scalars."""
    total, *others = block.deltas
    for delta in others:
        total += delta
    total /= block.count
    scale_by(total, scale)
    total += block.base
    return total


def svd(xp: Any, matrix: Array) -> tuple[Array, Array, Array]:
    """Thin singular value decomposition: U (m, r), S (r,), V^T (r, n)."""
    u, s, vh = xp.linalg.svd(matrix, full_matrices=False)
    return u, s, vh


def nearest_orthonormal(xp: Any, matrix: Array) -> Array:
    """The matrix with orthonormal columns (or rows) nearest to ``matrix`` (Procrustes)."""
    u, _, vh = svd(xp, matrix)
    return u @ vh
