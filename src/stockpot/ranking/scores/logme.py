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

from stockpot.ranking.scores.score import KINDS, Score, Value
from stockpot.ranking.scores.spectrum import Diagonal, Spectrum

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

TOLERANCE = 1e-3
EPSILON = 1e-5
ROUNDS = 11
_GOOD = 2e-7
_TINY = 1e-100


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

    def lengths(self, column: int, t: float) -> tuple[float, float, float]:
        """Degrees of freedom, |m|^2 and |y - X m|^2 at ``m = (G + t)^-1 w``."""
        values = self.spectrum.eigenvalues
        w = self.cross[:, column]
        solved = self.spectrum.solve(t, np.column_stack([w, self.update]))
        inner, beside = solved[:, 0], solved[:, 1]
        bend = 1.0 + float(self.update @ beside)
        inner = inner - beside * (float(self.update @ inner) / bend)
        freedom = float(np.sum(values / (values + t))) + t * float(beside @ beside) / bend
        m2 = float(inner @ inner)
        # |y - X m|^2 = |y|^2 - m^T w - t |m|^2, because G m = w - t m.
        return freedom, m2, max(float(self.squares[column] - inner @ w) - t * m2, 0.0)

    def log_determinant(self, a: float, b: float) -> float:
        """Of ``a + b G``."""
        solved = self.spectrum.solve(a / b, self.update[:, None])[:, 0]
        plain = float(np.sum(np.log(a + b * self.spectrum.eigenvalues)))
        return plain + float(np.log1p(self.update @ solved))


class Dual:
    """The same through ``K = X X^T`` and the columns y themselves, for N <= D."""

    def __init__(self, spectrum: Spectrum, columns: np.ndarray) -> None:
        self.spectrum = spectrum
        self.turned = spectrum.turn(columns)

    def lengths(self, column: int, t: float) -> tuple[float, float, float]:
        """Degrees of freedom, |m|^2 and |y - X m|^2 at ``m = X^T (K + t)^-1 y``."""
        values = self.spectrum.eigenvalues
        y = self.turned[:, column]
        inner = self.spectrum.solve(t, y[:, None])[:, 0]
        square = float(inner @ inner)
        m2 = max(float(inner @ y) - t * square, 0.0)
        return float(np.sum(values / (values + t))), m2, t * t * square

    def log_determinant(self, a: float, b: float) -> float:
        """Of ``a + b K``."""
        return float(np.sum(np.log(a + b * self.spectrum.eigenvalues)))


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
    found = np.empty((6, columns))
    for column in range(columns):
        a = b = 1.0
        for _ in range(ROUNDS):
            t = a / b
            freedom, m2, r2 = problem.lengths(column, t)
            # Features that are all zero have no degree of freedom; a then cancels.
            a = max(freedom, _TINY) / (m2 + epsilon)
            b = (rows - freedom) / (r2 + epsilon)
            if abs(a / b - t) <= tolerance * t:
                break
        evidence = (
            len(values) / 2.0 * np.log(a)
            + rows / 2.0 * np.log(b)
            - 0.5 * problem.log_determinant(a, b)
            - 0.5 * b * r2
            - 0.5 * a * m2
            - rows / 2.0 * np.log(2.0 * np.pi)
        ) / rows
        inverse = float(np.sqrt(np.sum((a + b * values) ** -2.0)))
        found[:, column] = evidence, a, b, m2, r2, inverse
    return Fit(*found)


def _logme(work: Workspace) -> Value:
    outputs = work.columns
    if work.wide:
        problem = Dual(Spectrum(work.kernel), outputs)
        return _value(fixed_point(problem, outputs.shape[1], work.rows), work, 64)
    squares = np.einsum("ij,ij->j", outputs, outputs)
    for precision in work.precisions:
        moments = work.moments(precision)
        spectrum = work.spectrum(precision)
        update = np.sqrt(work.rows) * moments.mean
        normal = Normal(spectrum, moments.feature_targets().T, squares, update)
        try:
            fit = fixed_point(normal, outputs.shape[1], work.rows)
        except FloatingPointError:
            doubt = np.inf
            continue
        # Errors of the scatter's entries, and of its reduction to tridiagonal form.
        size = float(np.max(moments.scale)) ** 2 * moments.entry_error
        size += np.finfo(np.float64).eps * float(spectrum.eigenvalues[-1] + update @ update)
        doubt = float(np.mean(0.5 * fit.b * (fit.inverse + fit.m2))) * size / work.rows
        if doubt <= _GOOD:
            break
    if doubt > _GOOD and work.evidence.features is not None:
        return _value(_decomposed(work, squares), work, 64)
    value = _value(fit, work, moments.precision)
    if doubt > _GOOD:
        return Value(value.value, value.details, f"rounding may change the value by {doubt:.1g}")
    return value


def _decomposed(work: Workspace, squares: np.ndarray) -> Fit:
    """From singular values of the features: ten times slower, right at any scale of features."""
    from scipy.linalg import svd

    features = work.features.astype(np.float64)
    left, values, right = svd(features, full_matrices=False, check_finite=False)
    cross = right.T @ (values[:, None] * (left.T @ work.columns))
    nothing = np.zeros(features.shape[1])
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
