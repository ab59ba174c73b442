"""A symmetric matrix as ``Q T Q^T``, T tridiagonal: all that the scores ask of its spectrum.

Reducing to T costs a third of an eigendecomposition. Eigenvalues, solves with any shift, and the
leading eigenvectors then cost next to nothing; the full eigenvector matrix comes only if asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from typing import Any, cast

import numpy as np


@cache
def _dptsv() -> Callable[..., Any]:
    """LAPACK's tridiagonal solver; thousands of calls would each pay for an import."""
    from scipy.linalg import lapack

    return cast("Callable[..., Any]", lapack.dptsv)


class Spectrum:
    """Q T Q^T of a positive semi-definite matrix.

    lower: its lower triangle, float64, shape (n, n), column-major; overwritten.
    """

    def __init__(self, lower: np.ndarray) -> None:
        from scipy.linalg import lapack

        self.size = len(lower)
        room, _ = lapack.dsytrd_lwork(self.size, lower=1)
        packed, self.diagonal, self.beside, self._tau, _ = lapack.dsytrd(
            lower, lower=1, lwork=int(room), overwrite_a=1
        )
        # Q leaves the first entry alone; below it is the Q of a QR factorisation.
        self._reflectors = np.asfortranarray(packed[1:, :-1])

    def _apply(self, vectors: np.ndarray, transpose: str) -> np.ndarray:
        from scipy.linalg import lapack

        turned = np.array(vectors, dtype=np.float64, order="F")
        if self.size > 1:
            rest = np.asfortranarray(turned[1:])
            room = lapack.dormqr("L", transpose, self._reflectors, self._tau, rest, -1)[1][0]
            turned[1:] = lapack.dormqr(
                "L", transpose, self._reflectors, self._tau, rest, int(room), overwrite_c=1
            )[0]
        return turned

    def turn(self, vectors: np.ndarray) -> np.ndarray:
        """``Q^T v`` of columns, shape (n, k)."""
        return self._apply(vectors, "T")

    @cached_property
    def eigenvalues(self) -> np.ndarray:
        """Ascending, negative rounding errors set to zero, shape (n,)."""
        from scipy.linalg import eigvalsh_tridiagonal

        found = eigvalsh_tridiagonal(self.diagonal, self.beside, lapack_driver="sterf")
        return np.asarray(np.maximum(found, 0.0))

    def solve(self, shift: float, turned: np.ndarray) -> np.ndarray:
        """``(T + shift)^-1`` on turned columns, shape (n, k).

        Raises ``FloatingPointError`` if the shift is lost in the rounding errors of T.
        """
        _, _, solved, info = _dptsv()(self.diagonal + shift, self.beside, turned)
        if info:
            raise FloatingPointError("shift below the rounding error of the matrix")
        return np.asarray(solved)

    def leading(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The largest eigenvalues, descending, and their vectors, shape (n, k).

        At most ``count``, and only those above the rounding error of the largest.
        """
        from scipy.linalg import eigh_tridiagonal

        count = min(count, self.size)
        if count == self.size:
            values, vectors = eigh_tridiagonal(self.diagonal, self.beside)
        else:
            values, vectors = eigh_tridiagonal(
                self.diagonal,
                self.beside,
                select="i",
                select_range=(self.size - count, self.size - 1),
            )
        keep = values > self.size * np.finfo(np.float64).eps * values[-1]
        vectors = self._apply(vectors[:, keep][:, ::-1], "N")
        return values[keep][::-1], vectors


class Diagonal(Spectrum):
    """The same from singular values and right vectors of a matrix, for badly conditioned ones.

    values: singular values (k,), ascending or not. right: (n, k).
    """

    def __init__(self, values: np.ndarray, right: np.ndarray) -> None:
        self.size = len(values)
        self.diagonal = values**2
        self.beside = np.zeros(max(len(values) - 1, 0))
        self._right = right

    def turn(self, vectors: np.ndarray) -> np.ndarray:
        """``V^T v`` of columns, shape (k, columns)."""
        return np.asarray(self._right.T @ vectors)

    @cached_property
    def eigenvalues(self) -> np.ndarray:
        """Squared singular values, shape (k,)."""
        return np.asarray(self.diagonal)
