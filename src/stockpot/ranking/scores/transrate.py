"""TransRate: bits that the features take, less the mean bits that one class takes.

``R(X) = logdet(I + X^T X / (n e)) / 2`` of centred features with distortion e = 1e-4. A class of
n_c < D rows has a D x D matrix of rank n_c: its determinant is that of the n_c x n_c matrix
``I + X X^T / (n e)``, which costs 50 to 100 times less.

Classes count alike in the mean, as in the authors' code. A regression is cut into ten classes at
its quantiles, column by column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.gram import Moments
    from stockpot.ranking.scores.workspace import Workspace

DISTORTION = 1e-4
BINS = 10
_GOOD = 2e-7


def _half_log_determinant(lower: np.ndarray) -> tuple[float, np.ndarray]:
    """``logdet(A) / 2`` and the Cholesky factor; the lower triangle of A is overwritten."""
    from scipy.linalg import lapack

    factor, _ = lapack.dpotrf(lower, lower=1, overwrite_a=1)
    return float(np.sum(np.log(np.diagonal(factor)))), factor


def coding_rate(rows: np.ndarray) -> float:
    """R of rows as they are, float64, shape (n, D), through the smaller of the two matrices."""
    count, size = rows.shape
    product = rows @ rows.T if count <= size else rows.T @ rows
    matrix = np.asfortranarray(product)
    matrix /= count * DISTORTION
    matrix[np.diag_indices(len(matrix))] += 1.0
    return _half_log_determinant(matrix)[0]


def _whole(work: Workspace) -> tuple[float, int]:
    """R of all centred rows, and the precision of the products it took."""
    if work.wide:
        return coding_rate(work.centred()), 64
    for precision in work.precisions:
        if work.has_spectrum(precision):
            rate, doubt = _from_spectrum(work, precision)
        else:
            rate, doubt = _from_factor(work.moments(precision))
        if doubt <= _GOOD * max(1.0, abs(rate)):
            break
    return rate, precision


def _from_spectrum(work: Workspace, precision: int) -> tuple[float, float]:
    """R and its rounding error, from eigenvalues that another score has asked for."""
    moments = work.moments(precision)
    spread = 1.0 + work.spectrum(precision).eigenvalues / (work.rows * DISTORTION)
    entry = moments.entry_error * float(np.max(moments.scale)) ** 2 / (work.rows * DISTORTION)
    entry += np.finfo(np.float64).eps * spread[-1]
    return 0.5 * float(np.sum(np.log(spread))), 0.5 * entry * float(np.sqrt(np.sum(spread**-2.0)))


def _from_factor(moments: Moments) -> tuple[float, float]:
    """R and its rounding error, from a Cholesky factor."""
    from scipy.linalg import solve_triangular

    # logdet(I + S Z S) with Z the scaled scatter: S is pulled out for the sake of rounding.
    weight = moments.rows * DISTORTION / moments.scale**2
    matrix = moments.scaled_scatter()
    matrix[np.diag_indices(len(matrix))] += weight
    rate, factor = _half_log_determinant(matrix)
    rate -= 0.5 * float(np.sum(np.log(weight)))
    # The Frobenius norm of the inverse, from a few random vectors.
    noise = np.random.default_rng(0).choice([-1.0, 1.0], size=(len(factor), 4))
    half = solve_triangular(factor, noise, lower=True, check_finite=False)
    whole = solve_triangular(factor, half, lower=True, trans=1, check_finite=False)
    norm = float(np.sqrt(np.mean(np.einsum("ij,ij->j", whole, whole))))
    return rate, 0.5 * moments.entry_error * norm


def _bins(column: np.ndarray) -> np.ndarray:
    edges = np.quantile(column, np.linspace(0, 1, BINS + 1)[1:-1])
    return np.searchsorted(np.unique(edges), column, side="right")


def _transrate(work: Workspace) -> Value:
    whole, precision = _whole(work)
    if work.kind == "classification":
        labellings = [work.codes]
    else:
        labellings = [_bins(column) for column in work.columns.T]
    rates = []
    for labels in labellings:
        order = np.argsort(labels, kind="stable")
        stops = np.flatnonzero(np.diff(labels[order])) + 1
        features, mean = work.features, work.mean
        parts = [
            coding_rate(np.asarray(features[rows] - mean, dtype=np.float64))
            for rows in np.split(order, stops)
        ]
        rates.append(float(np.mean(parts)))
    within = float(np.mean(rates))
    return Value(whole - within, {"rate": whole, "class_rate": within, "precision": precision})


SCORE = Score(
    name="transrate",
    title="TransRate",
    kinds=("classification", "regression"),
    formula="R(X) - mean_c R(X_c), R(X) = logdet(I + X^T X / (n e)) / 2, e = 1e-4",
    source="Huang et al. 2022, arXiv 2106.09362; tllib's transrate.py",
    when="Models of one width: its value grows with the number of features.",
    instead=("logme",),
    function=_transrate,
)
