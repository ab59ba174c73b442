"""H-score, and the regularised one: between-class over total covariance of the features.

Plain: ``tr(cov^+ cov_between)``. It does not change when features are scaled or mixed linearly, so
it is computed on centred, scaled features. Directions without variance are left out: those below
``D eps`` times the largest eigenvalue of the correlation matrix.

Regularised: the covariance is shrunk towards ``tr(cov)/D I`` by Ledoit and Wolf's amount, and the
between-class part by ``1 - amount``, so no direction is ever left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.gram import Moments
    from stockpot.ranking.scores.workspace import Workspace

_GOOD = 2e-7


def reduced(lower: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """``L^-1 M`` and ``A^-1 M`` of a scatter A = L L^T, columns M; whether A has full rank.

    Without full rank the pseudo-inverse takes the inverse's place.
    """
    from scipy.linalg import eigh, lapack, solve_triangular

    factor, info = lapack.dpotrf(lower, lower=1)
    pivots = np.diagonal(factor)
    full = info == 0 and bool(np.min(pivots**2) > len(lower) * 1e-14 * np.max(np.diagonal(lower)))
    if full:
        half = solve_triangular(factor, means, lower=True, check_finite=False)
        return half, solve_triangular(factor, half, lower=True, trans=1, check_finite=False), True
    values, vectors = eigh(lower, lower=True, check_finite=False)
    keep = values > len(lower) * np.finfo(np.float64).eps * values[-1]
    projected = vectors[:, keep].T @ means
    values = values[keep][:, None]
    return projected / np.sqrt(values), vectors[:, keep] @ (projected / values), False


def h_score(moments: Moments) -> tuple[float, float, bool]:
    """Value, an estimate of its rounding error, and whether the covariance has full rank."""
    means = (moments.centred_class_means() * np.sqrt(moments.target_sums)[:, None]).T
    half, solved, full = reduced(moments.scaled_scatter(), means)
    value = float(np.einsum("ij,ij->", half, half))
    # d tr(M^T A^-1 M) = -tr(A^-1 M M^T A^-1 dA), entries of dA independent.
    doubt = moments.entry_error * float(np.linalg.norm(solved.T @ solved))
    return value, doubt, full


def shrinkage(moments: Moments) -> tuple[float, float]:
    """Ledoit and Wolf's shrinkage of the covariance (divided by N), and its mean variance."""
    rows, size = moments.rows, moments.dimensions
    covariance = moments.scaled_scatter()
    covariance *= moments.scale / rows
    covariance *= moments.scale[:, None]
    diagonal = np.diagonal(covariance)
    mean = float(diagonal.mean())
    square = 2.0 * float(np.vdot(covariance, covariance)) - float(diagonal @ diagonal)
    return _amount(mean, square, moments.fourth_moment(), rows, size), mean


def _amount(mean: float, square: float, fourths: float, rows: int, size: int) -> float:
    """Shrinkage from m = tr(S)/D, |S|^2 and sum_i |x_i|^4, S the covariance.

    d = |S - m I|^2 / D and b = (mean_i |x_i|^4 - |S|^2) / (D N): min(b, d) / d (Ledoit and Wolf
    2004, J. Multivariate Analysis 88).
    """
    spread = square / size - mean**2
    noise = (fourths / rows - square) / (size * rows)
    return min(max(noise, 0.0), spread) / spread if spread > 0 else 1.0


def regularised_h_score(moments: Moments) -> tuple[float, float, float]:
    """Value, an estimate of its rounding error, and the shrinkage."""
    from scipy.linalg import lapack, solve_triangular

    rows = moments.rows
    amount, mean = shrinkage(moments)
    if amount >= 1.0 or mean == 0.0:
        return 0.0, 0.0, 1.0
    # Scaled: S = (1 - a) Z / N + a m scale^-2, Z the scaled scatter.
    lower = moments.scaled_scatter()
    lower *= (1.0 - amount) / rows
    lower[np.diag_indices(len(lower))] += amount * mean / moments.scale**2
    means = (moments.centred_class_means() * np.sqrt(moments.target_sums / (rows - 1.0))[:, None]).T
    factor, info = lapack.dpotrf(lower, lower=1, overwrite_a=1)
    if info:
        return float("nan"), float("inf"), amount
    half = solve_triangular(factor, means, lower=True, check_finite=False)
    solved = solve_triangular(factor, half, lower=True, trans=1, check_finite=False)
    value = (1.0 - amount) * float(np.einsum("ij,ij->", half, half))
    entry = moments.entry_error * (1.0 - amount) / rows
    return value, entry * float(np.linalg.norm(solved.T @ solved)), amount


def _dual_plain(work: Workspace) -> Value:
    """With N <= D: the share of each class's indicator in the features' column space."""
    values, left = work.singular(work.rows)
    sums = np.add.reduceat(left, work.starts, axis=0)
    value = float(np.sum(sums * sums / work.counts[:, None]))
    bound = len(work.classes) - 1
    return Value(
        value,
        {"full_rank": len(values) == work.rows - 1, "precision": 64, "bound": bound},
        _saturation(work, value, bound),
    )


def _saturation(work: Workspace, value: float, bound: int) -> str | None:
    if value <= 0.999 * bound:
        return None
    return (
        f"saturated: {work.rows} rows of these features separate any labels; "
        "use the regularised H-score, or more rows"
    )


def _plain(work: Workspace) -> Value:
    if work.wide:
        return _dual_plain(work)
    for precision in work.precisions:
        moments = work.moments(precision)
        value, doubt, full = h_score(moments)
        good = doubt <= _GOOD * max(1.0, value) and full
        if good:
            break
    bound = min(len(work.classes) - 1, moments.dimensions)
    warning = _saturation(work, value, bound)
    if warning is None and not good and moments.precision == 32:
        warning = f"rounding may change the value by {doubt:.1g}"
    details = {"full_rank": full, "precision": moments.precision, "bound": bound}
    return Value(value, details, warning)


def _dual_regularised(work: Workspace) -> Value:
    """With N <= D: ``X S^-1 X^T = K ((1 - a) K / N + a m)^-1``, K the centred N x N kernel."""
    from scipy.linalg import solve

    rows, size = work.rows, work.features.shape[1]
    kernel = work.centred_kernel
    lengths = np.diagonal(kernel)
    mean = float(lengths.sum()) / (rows * size)
    square = float(np.vdot(kernel, kernel)) / rows**2
    amount = _amount(mean, square, float(lengths @ lengths), rows, size)
    if amount >= 1.0 or mean == 0.0:
        return Value(0.0, {"shrinkage": 1.0, "precision": 64})
    indicator = work.columns / np.sqrt(work.counts * (rows - 1.0))
    matrix = (1.0 - amount) / rows * kernel
    matrix[np.diag_indices(rows)] += amount * mean
    solved = solve(matrix, kernel @ indicator, assume_a="pos", check_finite=False)
    value = (1.0 - amount) * float(np.vdot(indicator, solved))
    return Value(value, {"shrinkage": amount, "precision": 64})


def _regularised(work: Workspace) -> Value:
    if work.wide:
        return _dual_regularised(work)
    for precision in work.precisions:
        moments = work.moments(precision)
        value, doubt, amount = regularised_h_score(moments)
        good = doubt <= _GOOD * max(1.0, value)
        if good:
            break
    warning = None if good else f"rounding may change the value by {doubt:.1g}"
    return Value(value, {"shrinkage": amount, "precision": moments.precision}, warning)


SCORE = Score(
    name="hscore",
    title="H-score",
    needs=("features or moments",),
    formula="tr(cov(X)^+ cov(E[X | y]))",
    source="Bao et al. 2019, ICIP, arXiv 2212.10082",
    when="Many more rows than features; else the regularised one.",
    instead=("logme",),
    function=_plain,
)
REGULARISED = Score(
    name="reg_hscore",
    title="Regularised H-score",
    needs=("features or moments",),
    formula="(1 - s) tr(((1 - s) cov(X) + s tr(cov)/D I)^-1 cov(E[X | y])), s by Ledoit-Wolf",
    source="Ibrahim et al. 2021, arXiv 2110.06893; tllib's hscore.py",
    when="Classification with any number of rows; beside LogME, the cheapest second opinion.",
    instead=("logme",),
    function=_regularised,
)
