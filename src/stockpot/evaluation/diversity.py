"""How differently models err: pair measures on the correctness of M models.

``correct`` arguments are boolean arrays (or 0/1), shape ``(M, N)`` for M >= 2 models. Source of the
ratio-error: Aksela (2003), as used for weight averaging by Rame et al. (2022, arXiv:2205.09739).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stockpot.errors import InputError

Counts = npt.NDArray[np.float64]


def joint_errors(correct: npt.ArrayLike) -> tuple[Counts, Counts]:
    """Of each pair of models: examples where exactly one errs, and where both err."""
    right = np.asarray(correct, dtype=np.float64)
    if right.ndim != 2 or right.shape[1] == 0:
        raise InputError(f"correctness has shape {right.shape}, expected (models, examples)")
    if not np.isin(right, (0.0, 1.0)).all():
        raise InputError(
            "diversity of errors is defined for right and wrong answers only",
            hint="it has no meaning for regression scores",
        )
    if len(right) < 2:
        raise InputError(f"diversity needs two models or more, got {len(right)}")
    upper, wrong = np.triu_indices(len(right), k=1), 1.0 - right
    one = right @ wrong.T
    return (one + one.T)[upper], (wrong @ wrong.T)[upper]


def ratio_error(correct: npt.ArrayLike) -> float:
    """Examples where one model errs per example where both err, mean over pairs, from 0.

    Where two never err together it is twice the number of examples where one errs, the convention
    of the method's authors. Higher is more diverse.
    """
    one, both = joint_errors(correct)
    return float(np.where(both > 0, one / np.maximum(both, 1.0), 2.0 * one).mean())


def agreement(predicted_a: npt.ArrayLike, predicted_b: npt.ArrayLike) -> float:
    """Share of examples on which two models predict the same class, right or wrong, 0 to 1."""
    first, second = np.asarray(predicted_a), np.asarray(predicted_b)
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise InputError(f"predictions of shapes {first.shape} and {second.shape} cannot be paired")
    return float((first == second).mean())
