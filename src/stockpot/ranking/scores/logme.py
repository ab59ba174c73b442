"""LogME: log evidence of a Bayesian linear model of the targets, maximised over its two precisions.

For each target column y: weights ~ N(0, 1/a), noise ~ N(0, 1/b), and a fixed point for a and b from
a = b = 1, stopped as in the authors' code (at most 11 rounds, until t = a/b moves by less than
0.001 relatively; 1e-5 added to both denominators). The value is the mean over columns of the
evidence per row.

Everything needed follows from T = Q^T X^T X Q, tridiagonal, and Q^T X^T y: eigenvalues of T, and a
tridiagonal solve a round and column, O(D) each, instead of an eigenvector matrix. With N <= D the
same runs on X X^T.

**Where this differs from the authors' code.** Their fixed-point code keeps D/2 log a but leaves out
the D - N zero eigenvalues of X^T X from the sum of log(a + b s) where N < D, so it is off by
(D - N)/(2N) log a a row. The evidence of the model (their eq. 3) has the same term on both
sides: N/2 log a - sum over N eigenvalues. That is what is computed here; values for N < D then
compare across widths. ``details["authors"]`` is their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stockpot.ranking.scores.score import KINDS, Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

TOLERANCE = 1e-3
EPSILON = 1e-5
ROUNDS = 11
_GOOD = 2e-7


@dataclass(frozen=True)
class Fit:
    """The fixed point of every target column; arrays of shape (T,).

    evidence: per row. a, b: precisions. m2: squared length of the mean weights. r2: squared
    residual. trace: Frobenius norm of (a + b X^T X)^-1, which says how much rounding matters.
    """

    evidence: np.ndarray
    a: np.ndarray
    b: np.ndarray
    m2: np.ndarray
    r2: np.ndarray
    trace: np.ndarray


class Tridiagonal:
    """A symmetric matrix G as Q T Q^T, with the columns ``Q^T w`` of some vectors.

    lower: lower triangle of G, shape (n, n), column-major; overwritten. vectors: (n, T).
    """

    def __init__(self, lower: np.ndarray, vectors: np.ndarray) -> None:
        from scipy.linalg import eigvalsh_tridiagonal, lapack

        size = len(lower)
        work, _ = lapack.dsytrd_lwork(size, lower=1)
        packed, self.diagonal, self.beside, tau, _ = lapack.dsytrd(
            lower, lower=1, lwork=int(work), overwrite_a=1
        )
        turned = np.array(vectors, dtype=np.float64, order="F")
        if size > 1:
            # Q leaves the first entry alone; below it is a QR factor's Q.
            reflectors = np.asfortranarray(packed[1:, :-1])
            rest = np.asfortranarray(turned[1:])
            room = int(lapack.dormqr("L", "T", reflectors, tau, rest, -1)[1][0])
            turned[1:] = lapack.dormqr("L", "T", reflectors, tau, rest, room, overwrite_c=1)[0]
        self.vectors = turned
        self.eigenvalues = np.maximum(
            eigvalsh_tridiagonal(self.diagonal, self.beside, lapack_driver="sterf"), 0.0
        )

    def solve(self, shifts: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """``(T + t)^-1`` on the given columns of ``vectors``, a shift t each; shape (n, columns)."""
        from scipy.linalg import lapack

        solved = np.empty((len(self.diagonal), len(columns)), order="F")
        for place, (shift, column) in enumerate(zip(shifts, columns, strict=True)):
            _, _, answer, info = lapack.dptsv(
                self.diagonal + shift, self.beside, self.vectors[:, column]
            )
            if info:
                raise FloatingPointError("shift below the rounding error of the matrix")
            solved[:, place] = answer
        return solved


def fixed_point(
    solver: Tridiagonal,
    squares: np.ndarray,
    rows: int,
    *,
    kernel: bool,
    tolerance: float = TOLERANCE,
    epsilon: float = EPSILON,
) -> Fit:
    """Iterate a and b of every column (arXiv 2110.10545, algorithm 3).

    Args:
        solver: of X^T X with vectors X^T Y; or, if ``kernel``, of X X^T with vectors Y.
        squares: |y|^2 of each column, shape (T,).
        rows: N.
    """
    eigenvalues = solver.eigenvalues
    outputs = len(squares)
    a, b = np.ones(outputs), np.ones(outputs)
    m2, r2 = np.zeros(outputs), np.zeros(outputs)
    left = np.arange(outputs)
    for _ in range(ROUNDS):
        t = a[left] / b[left]
        freedom = np.array([float(np.sum(eigenvalues / (eigenvalues + each))) for each in t])
        m2[left], r2[left] = _lengths(solver, t, left, squares[left], kernel=kernel)
        a[left] = freedom / (m2[left] + epsilon)
        b[left] = (rows - freedom) / (r2[left] + epsilon)
        moved = np.abs(a[left] / b[left] - t) / t
        left = left[moved > tolerance]
        if not len(left):
            break
    logs = np.empty(outputs)
    trace = np.empty(outputs)
    for column in range(outputs):
        spread = a[column] + b[column] * eigenvalues
        logs[column] = np.sum(np.log(spread))
        trace[column] = np.sqrt(np.sum(spread**-2.0))
    evidence = (
        len(eigenvalues) / 2.0 * np.log(a)
        + rows / 2.0 * np.log(b)
        - 0.5 * logs
        - 0.5 * b * r2
        - 0.5 * a * m2
        - rows / 2.0 * np.log(2.0 * np.pi)
    ) / rows
    return Fit(evidence, a, b, m2, r2, trace)


def _lengths(
    solver: Tridiagonal, t: np.ndarray, columns: np.ndarray, squares: np.ndarray, *, kernel: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Squared lengths of the weights m = (G + t)^-1 X^T y and of the residual y - X m."""
    inner = solver.solve(t, columns)
    vectors = solver.vectors[:, columns]
    if kernel:
        # inner = (K + t)^-1 y: the residual is t inner, and m = X^T inner.
        length = np.einsum("ij,ij->j", inner, inner)
        return np.einsum("ij,ij->j", inner, vectors) - t * length, t**2 * length
    length = np.einsum("ij,ij->j", inner, inner)
    # |y - X m|^2 = |y|^2 - m^T X^T y - t |m|^2, because G m = X^T y - t m.
    return length, np.maximum(squares - np.einsum("ij,ij->j", inner, vectors) - t * length, 0.0)


def _logme(work: Workspace) -> Value:
    outputs = work.columns
    squares = np.einsum("ij,ij->j", outputs, outputs)
    if work.wide:
        kernel = work.kernel
        fit = fixed_point(Tridiagonal(kernel.copy("F"), outputs), squares, work.rows, kernel=True)
        return _value(fit, work, precision=64)
    for precision in (32, 64):
        moments = work.moments(precision)
        solver = Tridiagonal(moments.gram(), moments.feature_targets().T)
        fit = fixed_point(solver, squares, work.rows, kernel=False)
        size = float(np.max(moments.scale)) ** 2 * moments.entry_error
        doubt = float(np.mean(0.5 * fit.b * (fit.trace + fit.m2))) * size / work.rows
        if doubt <= _GOOD or not work.exact:
            break
    value = _value(fit, work, precision=moments.precision)
    if doubt > _GOOD:
        return Value(value.value, value.details, f"rounding may change the value by {doubt:.1g}")
    return value


def _value(fit: Fit, work: Workspace, *, precision: int) -> Value:
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
    source="You et al. 2021, arXiv 2102.11005, eq. 3; fixed point: arXiv 2110.10545, algorithm 3",
    when="The default feature score: any target, no parameter, seldom the worst.",
    instead=("linear_probe",),
    function=_logme,
)
