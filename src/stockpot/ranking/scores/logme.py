"""LogME: log evidence of a Bayesian linear model of the targets, maximised over its two precisions.

For each target column y: weights ~ N(0, 1/a), noise ~ N(0, 1/b), and a fixed point for a and b from
a = b = 1, stopped as in the authors' code (at most 11 rounds, until t = a/b moves by less than
0.001 relatively; 1e-5 added to both denominators). The value is the mean over columns of the
evidence per row.

Everything needed follows from the tridiagonal form of the centred features' scatter, which other
scores share, through O(D) solves: ``X^T X`` is that scatter plus ``N mu mu^T``, a rank-one update
(Sherman and Morrison). No eigenvector is computed. With N <= D the same runs on ``X X^T``.

**Where this differs from the authors' code.** Their fixed-point code keeps D/2 log a but leaves out
the D - N zero eigenvalues of X^T X from the sum of log(a + b s) where N < D, so it is off by
(D - N)/(2N) log a a row. The evidence of the model has the same term on both
sides: N/2 log a - sum over N eigenvalues. That is what is computed here; values for N < D then
compare across widths. ``details["authors"]`` is their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stockpot.errors import ScoreError
from stockpot.ranking.scores.score import KINDS, Score, Value
from stockpot.ranking.scores.spectrum import Diagonal, Spectrum

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

TOLERANCE = 1e-3
EPSILON = 1e-5
ROUNDS = 11
_GOOD = 2e-7
_TINY = 1e-100

Lengths = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Fit:
    """The fixed point of every target column; arrays of shape (T,).

    evidence: per row. a, b: precisions. m2: squared length of the mean weights. r2: squared
    residual. inverse: Frobenius norm of (a + b S)^-1, which says how much rounding matters.
    """

    evidence: np.ndarray
    a: np.ndarray
    b: np.ndarray
    m2: np.ndarray
    r2: np.ndarray
    inverse: np.ndarray


class Normal:
    """``G = X^T X`` as a spectrum plus ``u u^T``, with ``w = X^T y`` of all columns.

    cross: ``X^T Y``, shape (D, T). squares: |y|^2, shape (T,). update: u, shape (D,).
    """

    def __init__(
        self, spectrum: Spectrum, cross: np.ndarray, squares: np.ndarray, update: np.ndarray
    ) -> None:
        self.spectrum, self.squares = spectrum, squares
        turned = spectrum.turn(np.column_stack([cross, update]))
        self.cross, self.update = turned[:, :-1], turned[:, -1]

    def lengths(self, columns: np.ndarray, t: np.ndarray) -> Lengths:
        """Degrees of freedom, |m|^2 and |y - X m|^2 at ``m = (G + t)^-1 w``, a t each column."""
        w, inner, beside = self._solved(columns, t)
        bend = 1.0 + self.update @ beside
        inner -= beside * ((self.update @ inner) / bend)
        freedom = _freedom(self.spectrum.eigenvalues, t) + t * _squares(beside) / bend
        m2 = _squares(inner)
        # |y - X m|^2 = |y|^2 - m^T w - t |m|^2, because G m = w - t m.
        r2 = self.squares[columns] - np.einsum("ij,ij->j", inner, w) - t * m2
        return freedom, m2, np.maximum(r2, 0.0)

    def _solved(
        self, columns: np.ndarray, t: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """w, and ``(S + t)^-1`` of w and of u, for each column; shape (D, columns) each."""
        w = self.cross[:, columns]
        inner, beside = np.empty_like(w, order="F"), np.empty_like(w, order="F")
        both = np.empty((len(w), 2), order="F")
        both[:, 1] = self.update
        for place, shift in enumerate(t):
            both[:, 0] = w[:, place]
            solved = self.spectrum.solve(shift, both)
            inner[:, place], beside[:, place] = solved[:, 0], solved[:, 1]
        return w, inner, beside

    def log_determinants(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Of ``a + b G``."""
        once = self.update[:, None]
        bends = [float(self.update @ self.spectrum.solve(t, once)[:, 0]) for t in a / b]
        return _log_determinants(self.spectrum.eigenvalues, a, b) + np.log1p(bends)


class Dual:
    """The same through ``K = X X^T`` and the columns y themselves, for N <= D."""

    def __init__(self, spectrum: Spectrum, columns: np.ndarray) -> None:
        self.spectrum = spectrum
        self.turned = spectrum.turn(columns)

    def lengths(self, columns: np.ndarray, t: np.ndarray) -> Lengths:
        """Degrees of freedom, |m|^2 and |y - X m|^2 at ``m = X^T (K + t)^-1 y``."""
        y = self.turned[:, columns]
        inner = np.column_stack(
            [self.spectrum.solve(shift, y[:, [place]]) for place, shift in enumerate(t)]
        )
        square = _squares(inner)
        m2 = np.maximum(np.einsum("ij,ij->j", inner, y) - t * square, 0.0)
        return _freedom(self.spectrum.eigenvalues, t), m2, t * t * square

    def log_determinants(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Of ``a + b K``."""
        return _log_determinants(self.spectrum.eigenvalues, a, b)


def _squares(columns: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("ij,ij->j", columns, columns))


def _freedom(eigenvalues: np.ndarray, t: np.ndarray) -> np.ndarray:
    return np.asarray((eigenvalues / (eigenvalues + t[:, None])).sum(axis=1))


def _log_determinants(eigenvalues: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(a[:, None] + b[:, None] * eigenvalues).sum(axis=1))


def fixed_point(
    problem: Normal | Dual,
    columns: int,
    rows: int,
    *,
    tolerance: float = TOLERANCE,
    epsilon: float = EPSILON,
) -> Fit:
    """Iterate a and b of every column (arXiv 2110.10545).

    Another ``tolerance`` and ``epsilon`` give the values of other code: 0.01 and 0 those of tllib.
    """
    values = problem.spectrum.eigenvalues
    a, b, m2, r2 = (np.ones(columns) for _ in range(4))
    left = np.arange(columns)
    for _ in range(ROUNDS):
        t = a[left] / b[left]
        freedom, m2[left], r2[left] = problem.lengths(left, t)
        # Features that are all zero have no degree of freedom; a then cancels.
        a[left] = np.maximum(freedom, _TINY) / (m2[left] + epsilon)
        b[left] = (rows - freedom) / (r2[left] + epsilon)
        left = left[np.abs(a[left] / b[left] - t) > tolerance * t]
        if not len(left):
            break
    evidence = (
        len(values) / 2.0 * np.log(a)
        + rows / 2.0 * np.log(b)
        - 0.5 * problem.log_determinants(a, b)
        - 0.5 * b * r2
        - 0.5 * a * m2
        - rows / 2.0 * np.log(2.0 * np.pi)
    ) / rows
    inverse = np.sqrt(((a[:, None] + b[:, None] * values) ** -2.0).sum(axis=1))
    return Fit(evidence, a, b, m2, r2, inverse)


def _logme(work: Workspace) -> Value:
    if work.wide:
        problem = Dual(Spectrum(work.kernel), work.columns)
        return _value(fixed_point(problem, work.columns.shape[1], work.rows), work, 64)
    fit = None
    doubt = np.inf
    for precision in work.precisions:
        moments = work.moments(precision)
        spectrum = work.spectrum(precision)
        update = np.sqrt(work.rows) * moments.mean
        squares = moments.target_squares
        normal = Normal(spectrum, moments.feature_targets().T, squares, update)
        try:
            fit = fixed_point(normal, len(squares), work.rows)
        except FloatingPointError:
            continue
        # Errors of the scatter's entries, and of its reduction to tridiagonal form.
        size = float(np.max(moments.scale)) ** 2 * moments.entry_error
        size += np.finfo(np.float64).eps * float(spectrum.eigenvalues[-1] + update @ update)
        doubt = float(np.mean(0.5 * fit.b * (fit.inverse + fit.m2))) * size / work.rows
        if doubt <= _GOOD:
            break
    if doubt > _GOOD and work.evidence.features is not None:
        return _value(_decomposed(work), work, 64)
    if fit is None:
        raise ScoreError(
            "logme: the features depend on each other too closely for sums of float32 products",
            hint="sum with precision=64, or keep the features",
        )
    value = _value(fit, work, moments.precision)
    if doubt > _GOOD:
        return Value(value.value, value.details, f"rounding may change the value by {doubt:.1g}")
    return value


def _decomposed(work: Workspace) -> Fit:
    """From singular values of the features: ten times slower, right at any scale of features."""
    from scipy.linalg import svd

    features = work.features.astype(np.float64)
    left, values, right = svd(features, full_matrices=False, check_finite=False)
    cross = right.T @ (values[:, None] * (left.T @ work.columns))
    nothing = np.zeros(features.shape[1])
    squares = np.einsum("ij,ij->j", work.columns, work.columns)
    normal = Normal(Diagonal(values, right.T), cross, squares, nothing)
    return fixed_point(normal, work.columns.shape[1], work.rows)


def _value(fit: Fit, work: Workspace, precision: int) -> Value:
    mean = float(np.mean(fit.evidence))
    details = {
        "a": float(np.median(fit.a)),
        "b": float(np.median(fit.b)),
        "columns": len(fit.a),
        "precision": precision,
    }
    if work.wide:
        missing = work.features.shape[1] - work.rows
        details["authors"] = mean + missing / (2 * work.rows) * float(np.mean(np.log(fit.a)))
    return Value(mean, details)


SCORE = Score(
    name="logme",
    title="LogME",
    needs=("features or moments",),
    kinds=KINDS,
    formula="mean over columns y of max over a, b of log p(y | X, a, b) / N",
    source="You et al. 2021, arXiv 2102.11005; fixed point: 2110.10545 and the authors' LogME.py",
    when="The default feature score: any target, no parameter, seldom the worst.",
    instead=("linear_probe",),
    function=_logme,
)
