"""Posterior of linear discriminant analysis with a shrunk within-class covariance.

SFDA and ETran solve a generalised eigenproblem for it. All of its eigenvectors together invert
the within-class covariance, ``V V^T = S^-1``, so a Cholesky factor gives the same posterior.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stockpot.ranking.gram import Moments


_BLOCK = 256


@dataclass(frozen=True)
class Discriminant:
    """Logits of centred rows r are ``r @ weights + bias``.

    weights: (D, C). bias: (C,). shrinkage: share of the mean variance in the covariance.
    logit_error: how far rounding may move a typical row's logit of a class.
    """

    weights: np.ndarray
    bias: np.ndarray
    shrinkage: float
    logit_error: float

    def posterior(
        self, rows: np.ndarray, offset: np.ndarray | None = None
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """``p(c | x)`` of rows, in blocks and in their precision: where they lie, (n, C) each.

        rows: centred, shape (N, D). offset: what is left to subtract from every row, float64,
        shape (D,). The next block overwrites the last: with a thousand classes, memory for all rows
        costs more than the arithmetic.
        """
        bias = self.bias if offset is None else self.bias - offset @ self.weights
        weights = self.weights.astype(rows.dtype, copy=False)
        bias = bias.astype(rows.dtype, copy=False)
        room = np.empty((min(_BLOCK, len(rows)), len(bias)), dtype=rows.dtype)
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            found = np.matmul(part, weights, out=room[: len(part)])
            found += bias
            softmax(found)
            yield slice(start, start + len(part)), found

    def told(
        self, rows: np.ndarray, codes: np.ndarray, offset: np.ndarray | None = None
    ) -> Confidences:
        """What the posterior says of rows whose classes are ``codes`` (N,)."""
        right, top, share = (np.empty(len(rows)) for _ in range(3))
        for place, found in self.posterior(rows, offset):
            own = found[np.arange(len(found)), codes[place]].astype(np.float64)
            right[place], top[place] = own, found.max(axis=1)
            np.exp(found, out=found)
            share[place] = np.exp(own) / found.sum(axis=1, dtype=np.float64)
        return Confidences(right, top, share)


@dataclass(frozen=True)
class Confidences:
    """Of each row, ``(N,)`` float64: probability of its class, the largest probability, and the
    share of its class in a softmax of the probabilities themselves."""

    right: np.ndarray
    top: np.ndarray
    share: np.ndarray


def softmax(logits: np.ndarray) -> None:
    """Turns logits (n, C) into probabilities, in place; few rows at a time stay in the cache."""
    for start in range(0, len(logits), _BLOCK):
        part = logits[start : start + _BLOCK]
        part -= part.max(axis=1, keepdims=True)
        np.exp(part, out=part)
        part /= part.sum(axis=1, keepdims=True)


def uncertainty(probabilities: np.ndarray) -> float:
    """Mean change of probabilities for a unit change of their logits."""
    return float(np.mean(probabilities * (1.0 - probabilities), dtype=np.float64))


def largest_eigenvalue(lower: np.ndarray, scale: np.ndarray) -> float:
    """Three double rounds of power iteration from the row sums, as SFDA's shrinkage is defined.

    The matrix is ``lower`` (its lower triangle) with rows and columns times ``scale``.
    """
    from scipy.linalg import blas

    def times(vector: np.ndarray) -> np.ndarray:
        return np.asarray(scale * blas.dsymv(1.0, lower, scale * vector, lower=1))

    x = times(np.ones(len(lower)))
    if not np.any(x):
        return 0.0
    y = x
    for _ in range(3):
        y = times(x)
        y /= np.linalg.norm(y)
        x = times(y)
        x /= np.linalg.norm(x)
    return float(x @ times(y))


def discriminant(moments: Moments, shrinkage: float | None = None) -> Discriminant:
    """Fit; without ``shrinkage`` it is ``max(exp(-5 s), 1e-10)``, s the largest eigenvalue of S_w.

    Source: Shao et al. 2022, arXiv 2207.03036, and the authors' metrics.py.
    """
    from scipy.linalg import lapack, solve_triangular

    rows = moments.rows
    scale = moments.scale
    means = moments.centred_class_means()
    within = moments.within_scatter()
    variances = np.diagonal(within) * scale**2 / rows
    if shrinkage is None:
        largest = largest_eigenvalue(within, scale) / rows
        shrinkage = max(float(np.exp(-5.0 * largest)), 1e-10)
    # In scaled units: ((1 - l) S_w + l mean(S_w) I) = scale A scale.
    within *= (1.0 - shrinkage) / rows
    within[np.diag_indices(len(within))] += shrinkage * float(variances.mean()) / scale**2
    factor, info = lapack.dpotrf(within, lower=1, overwrite_a=1)
    if info:
        return Discriminant(np.zeros(means.T.shape), np.zeros(len(means)), shrinkage, np.inf)
    half = solve_triangular(factor, means.T, lower=True, check_finite=False)
    solved = solve_triangular(factor, half, lower=True, trans=1, check_finite=False)
    bias = -0.5 * np.einsum("ij,ij->j", half, half) + np.log(moments.target_sums / rows)
    noise = np.random.default_rng(0).choice([-1.0, 1.0], size=len(factor))
    spread = np.linalg.norm(solve_triangular(factor, noise, lower=True, check_finite=False))
    steepest = float(np.sqrt(np.max(np.einsum("ij,ij->j", solved, solved))))
    error = moments.entry_error / rows * float(spread) * steepest
    return Discriminant(solved / scale[:, None], bias, shrinkage, error)
