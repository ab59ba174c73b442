"""The transfer space: models and tasks as non-negative factors of the transfer matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stockpot.errors import InputError

RANK = 5
ITERATIONS = 1000
SEED = 2023
_TINY = 1e-12


@dataclass(frozen=True)
class LatentFactors:
    """``models`` (M, K) and ``tasks`` (T, K): the matrix is about ``models @ tasks.T``.

    ``error``: root mean square over the known cells.
    """

    models: np.ndarray
    tasks: np.ndarray
    error: float


def factorise(
    matrix: np.ndarray, rank: int = RANK, *, iterations: int = ITERATIONS, seed: int = SEED
) -> LatentFactors:
    """Non-negative factors of ``matrix`` (M, T), entries 0 or more, nan where nothing is known.

    Multiplicative updates for the squared error over the known cells (Lee and Seung 2001, weighted
    as in Zhang et al. 2006), from random positive factors, without penalty. ``rank`` is cut to the
    smaller side of the matrix. Raises ``InputError`` for negative entries or an empty row or
    column.
    """
    values = np.asarray(matrix, dtype=np.float64)
    known = np.isfinite(values)
    if values.ndim != 2 or not known.any():
        raise InputError(f"the transfer matrix has shape {values.shape} and no known cell")
    if (values[known] < 0).any():
        raise InputError("the transfer matrix has negative entries", hint="scale each task to 0..1")
    for axis, what in ((1, "model"), (0, "task")):
        empty = np.flatnonzero(~known.any(axis=axis))
        if len(empty):
            raise InputError(f"{what} number {empty[0]} of the transfer matrix has no known cell")
    rank = min(rank, *values.shape)
    filled = np.where(known, values, 0.0)
    weight = known.astype(np.float64)
    draw = np.random.default_rng(seed)
    scale = np.sqrt(max(filled.sum() / weight.sum(), _TINY) / rank)
    left = scale * np.abs(draw.standard_normal((values.shape[0], rank)))
    right = scale * np.abs(draw.standard_normal((values.shape[1], rank)))
    for _ in range(iterations):
        left *= (filled @ right) / ((weight * (left @ right.T)) @ right + _TINY)
        right *= (filled.T @ left) / ((weight * (left @ right.T)).T @ left + _TINY)
    rest = (filled - left @ right.T)[known]
    return LatentFactors(left, right, float(np.sqrt(np.mean(rest**2))))
