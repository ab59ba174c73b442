"""Karcher mean: the point on the sphere with the least squared angles to the models.

It lies in the span of the models, so the iteration runs on k coefficients and the k x k inner
products: one pass over the weights, whatever the number of steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.errors import MethodError
from stockpot.merging.method import (
    Array,
    Block,
    Integer,
    Pass,
    PerModel,
    Real,
    Statistics,
    Total,
    merge_method,
)
from stockpot.merging.methods._sphere import add_up, difference_gram, differences, full_gram


def karcher_coefficients(gram: np.ndarray, weights: np.ndarray, steps: int) -> np.ndarray:
    """Coefficients of unit vectors whose combination is their Karcher mean, shape (k,).

    Args:
        gram: inner products of the unit vectors, (k, k).
        weights: (k,), adding up to one.
    """
    mean = weights / _length(weights, gram)
    for _ in range(steps):
        cosines = np.clip(gram @ mean, -1.0, 1.0)
        angles = np.arccos(cosines)
        sines = np.sin(angles)
        stretch = np.divide(angles, sines, out=np.ones_like(sines), where=sines > 1e-7)
        # The log map of vector i at the mean is stretch_i (u_i - cos_i mean).
        tangent = weights * stretch - float(weights @ (stretch * cosines)) * mean
        length = _length(tangent, gram)
        if length < 1e-15:
            break
        mean = np.cos(length) * mean + np.sin(length) / length * tangent
        mean /= _length(mean, gram)
    return mean


def _length(coefficients: np.ndarray, gram: np.ndarray) -> float:
    return float(np.sqrt(max(float(coefficients @ gram @ coefficients), 0.0)))


def _gram(block: Block, **_: Any) -> dict[str, Total]:
    return difference_gram(block, block.models)


def _finish(statistics: Statistics, tensor: Any, *, weights: list[float], steps: int) -> Statistics:
    total = sum(weights)
    if total == 0:
        raise MethodError("parameter 'weights': all are zero", hint="give other weights")
    shares = np.array(weights) / total
    gram = full_gram(statistics["gram"])
    norms = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    if not np.all(norms > 0) or np.linalg.norm(shares / norms @ gram) == 0:
        return {"coefficients": shares.tolist()}
    unit = gram / np.outer(norms, norms)
    np.fill_diagonal(unit, 1.0)
    mean = karcher_coefficients(unit, shares, steps)
    return {"coefficients": (mean * float(shares @ norms) / norms).tolist()}


@merge_method(
    "karcher",
    title="Karcher mean",
    formula="mean_i |theta_i| argmin_{|m|=1} sum_i w_i angle(m, theta_i)^2",
    source="Karcher 1977, Riemannian center of mass; one sphere for each tensor",
    base="none",
    passes=(Pass(_gram, _finish),),
    parameters=(
        PerModel(Real("weights", 1.0, 0.0, closed="left"), help="weight of each model"),
        Integer("steps", 100, 1, 10_000, help="at most so many steps; a few are enough"),
    ),
    report=("coefficients",),
)
def karcher(block: Block, *, weights: list[float], steps: int) -> Array:
    return add_up(differences(block.models), block.statistics["coefficients"])
