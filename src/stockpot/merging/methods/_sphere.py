"""Spherical interpolation, as coefficients of the vectors that are interpolated.

A point between unit vectors on the sphere is a linear combination of them whose coefficients depend
on their inner products alone. So one pass for the inner products is enough, and the vectors are
combined as weights are: block by block.

Angles come from the inner products of the first vector and of the differences from it, so that a
task vector 1e-5 the size of the weights still has its angle: the cosine alone would lose it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stockpot.merging.method import Array, Block, Total

_ANTIPODAL = 1e-6


def differences(vectors: list[Array]) -> list[Array]:
    """The first vector, and the others minus it (overwritten)."""
    first, *others = vectors
    for other in others:
        other -= first
    return vectors


def difference_gram(block: Block, vectors: list[Array]) -> dict[str, Total]:
    """Inner products of the first vector and the differences from it, as a statistic."""
    return {"gram": block.gram(differences(vectors))}


def full_gram(gram: np.ndarray) -> np.ndarray:
    """Inner products (..., k, k) of the vectors, from those of ``differences``."""
    k = gram.shape[-1]
    from_differences = np.eye(k)
    from_differences[:, 0] = 1.0
    return np.asarray(from_differences @ gram @ from_differences.T)


def angle(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angle between two vectors a, b and their lengths, from the products of a and b - a.

    ``gram`` is (..., 2, 2) float64; a zero vector has angle 0 with every other.
    """
    aa, ad, dd = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
    gap = 2 * ad + dd
    a, b = np.sqrt(aa), np.sqrt(np.maximum(aa + gap, 0.0))
    product = a * b
    known = product > 0
    length_gap = np.divide(gap, a + b, out=np.zeros_like(gap), where=known)
    # |a/|a| - b/|b||^2: the difference of the unit vectors, without cancellation.
    chord = np.divide(dd - length_gap**2, product, out=np.zeros_like(gap), where=known)
    half = np.sqrt(np.clip(chord, 0.0, 4.0)) / 2
    return 2 * np.arcsin(np.clip(half, 0.0, 1.0)), a, b


def slerp_shares(omega: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
    """``sin((1-t) omega) / sin(omega)`` and ``sin(t omega) / sin(omega)``.

    Linear where the vectors are parallel or, the way being undefined, opposite (within 1e-6 rad).
    """
    sine = np.sin(omega)
    usable = (omega > 0) & (np.pi - omega > _ANTIPODAL)
    first = np.full_like(omega, 1.0 - t)
    second = np.full_like(omega, t)
    np.divide(np.sin((1.0 - t) * omega), sine, out=first, where=usable)
    np.divide(np.sin(t * omega), sine, out=second, where=usable)
    return first, second


def add_up(vectors: list[Array], coefficients: Sequence[Any]) -> Array:
    """``sum_i c_i x_i`` from ``differences`` of the x; equal vectors give themselves if sum c = 1.

    Coefficients are numbers, or arrays that broadcast.
    """
    first, *others = vectors
    excess = sum(coefficients) - 1.0
    small = isinstance(excess, float) and abs(excess) < 1e-15
    total: Array = None if small else first * excess
    for other, coefficient in zip(others, coefficients[1:], strict=True):
        other *= coefficient
        if total is None:
            total = other
        else:
            total += other
    if total is not None:
        first += total
    return first
