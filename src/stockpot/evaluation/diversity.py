"""How differently models err: pair measures on the correctness of two models, and pair means.

``correct`` arguments are boolean arrays (or 0/1), shape ``(N,)`` of one model or ``(M, N)`` of M.
With ``Nab`` the number of examples where the first model is right (a=1) or wrong (a=0) and the
second likewise (b). Sources: ratio-error from Aksela (2003), as used for weight averaging by Rame
et al. (2022, arXiv:2205.09739); Q-statistic, double fault and the rest from Kuncheva and Whitaker
(2003).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from stockpot.errors import InputError

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Diversity:
    """Means over all pairs of members of one pool."""

    ratio_error: float
    q_statistic: float
    single_fault: float
    double_fault: float
    pairs: int

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def ratio_error(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike) -> float:
    """Examples where one model errs per example where both err: ``(N01 + N10) / N00``, from 0.

    Where the two never err together (``N00 = 0``) it is ``2 (N01 + N10)``, the convention of the
    method's authors. Higher is more diverse.
    """
    return float(_ratio_error(_pair(correct_a, correct_b))[0, 1])


def q_statistic(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike) -> float:
    """Yule's Q, ``(N11 N00 - N01 N10) / (N11 N00 + N01 N10)``, from -1 (diverse) to 1 (alike).

    Where numerator and denominator vanish the association cannot be measured and Q is 0.
    """
    return float(_q_statistic(_pair(correct_a, correct_b))[0, 1])


def single_fault(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike) -> float:
    """Share of examples where exactly one model errs, ``(N01 + N10) / N``, 0 to 1."""
    return float(_single_fault(_pair(correct_a, correct_b))[0, 1])


def double_fault(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike) -> float:
    """Share of examples where both models err, ``N00 / N``, 0 to 1."""
    return float(_double_fault(_pair(correct_a, correct_b))[0, 1])


def agreement(predicted_a: npt.ArrayLike, predicted_b: npt.ArrayLike) -> float:
    """Share of examples on which two models predict the same class, right or wrong, 0 to 1."""
    first, second = np.asarray(predicted_a), np.asarray(predicted_b)
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise InputError(f"predictions of shapes {first.shape} and {second.shape} cannot be paired")
    return float((first == second).mean())


def mean_diversity(correct: npt.ArrayLike) -> Diversity:
    """Mean of each measure over all pairs of M >= 2 models; ``correct`` has shape ``(M, N)``."""
    table = _table(correct)
    members = len(table)
    if members < 2:
        raise InputError(f"diversity needs two models or more, got {members}")
    upper = np.triu_indices(members, k=1)
    return Diversity(
        ratio_error=float(_ratio_error(table)[upper].mean()),
        q_statistic=float(_q_statistic(table)[upper].mean()),
        single_fault=float(_single_fault(table)[upper].mean()),
        double_fault=float(_double_fault(table)[upper].mean()),
        pairs=len(upper[0]),
    )


def _pair(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike) -> Counts:
    first, second = np.asarray(correct_a), np.asarray(correct_b)
    if first.shape != second.shape:
        raise InputError(f"models scored on {first.shape} and {second.shape} cannot be paired")
    return _table(np.stack([first, second]))


def _table(correct: npt.ArrayLike) -> Counts:
    """Correctness as 0/1 numbers, shape ``(M, N)``, checked."""
    values = np.asarray(correct, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise InputError(f"correctness has shape {values.shape}, expected (models, examples)")
    if not np.isin(values, (0.0, 1.0)).all():
        raise InputError(
            "diversity of errors is defined for right and wrong answers only",
            hint="it has no meaning for regression scores",
        )
    return values


def _counts(table: Counts) -> tuple[Counts, Counts, Counts]:
    """Pair matrices ``(M, M)`` of ``N11``, ``N00`` and ``N10`` (row right, column wrong)."""
    wrong = 1.0 - table
    return table @ table.T, wrong @ wrong.T, table @ wrong.T


def _ratio_error(table: Counts) -> Counts:
    _, neither, one = _counts(table)
    differ = one + one.T
    ratio: Counts = np.where(neither > 0, differ / np.maximum(neither, 1.0), 2.0 * differ)
    return ratio


def _q_statistic(table: Counts) -> Counts:
    both, neither, one = _counts(table)
    alike, unlike = both * neither, one * one.T
    total = alike + unlike
    q: Counts = np.where(total > 0, (alike - unlike) / np.maximum(total, 1.0), 0.0)
    return q


def _single_fault(table: Counts) -> Counts:
    _, _, one = _counts(table)
    share: Counts = (one + one.T) / table.shape[1]
    return share


def _double_fault(table: Counts) -> Counts:
    _, neither, _ = _counts(table)
    share: Counts = neither / table.shape[1]
    return share
