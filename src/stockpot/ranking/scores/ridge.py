"""Exact leave-one-out ridge regression: accuracy of a linear head on rows it has not seen.

With an unpenalised offset, ``H = 1/N + X (X^T X + l)^-1 X^T`` of centred features, the prediction
for a row by a fit without it is off by ``e_i / (1 - h_ii)``, e the residuals of the one full fit.
One eigendecomposition serves all penalties and all targets. Where rows come in groups (tokens of a
sentence), each group is left out as a whole, ``(I - H_gg)^-1 e_g``, also exact.

Penalties are shares of the mean squared singular value; the one with the least squared error
counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.errors import ScoreError
from stockpot.ranking.scores.held_out import MEASURES, merit, standard_error
from stockpot.ranking.scores.score import KINDS, Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

SHARES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


def _turned(work: Workspace) -> tuple[np.ndarray, np.ndarray]:
    """Squared singular values s (k,) and left vectors U (N, k) of the centred features."""
    values, vectors = work.singular(min(work.features.shape))
    if work.wide:
        return values, vectors
    left = np.empty((work.rows, len(values)))
    vectors = vectors / np.sqrt(values)
    for place, block in work.blocks():
        np.matmul(block, vectors, out=left[place])
    return values, left


def left_out(
    values: np.ndarray, left: np.ndarray, targets: np.ndarray, penalty: float
) -> np.ndarray:
    """Predictions (N, T) of fits that each leave one row out, centred targets (N, T)."""
    shrink = values / (values + penalty)
    fitted = left @ (shrink[:, None] * (left.T @ targets))
    leverage = (left * left) @ shrink + 1.0 / len(left)
    rest = (targets - fitted) / np.maximum(1.0 - leverage, 1e-12)[:, None]
    return np.asarray(targets - rest)


def left_out_groups(
    values: np.ndarray, left: np.ndarray, targets: np.ndarray, penalty: float, groups: np.ndarray
) -> np.ndarray:
    """As ``left_out``, leaving out all rows of a group at once."""
    shrink = values / (values + penalty)
    fitted = left @ (shrink[:, None] * (left.T @ targets))
    predicted = np.empty_like(targets)
    order = np.argsort(groups, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        part = left[rows]
        hat = (part * shrink) @ part.T + 1.0 / len(left)
        rest = np.linalg.solve(np.eye(len(rows)) - hat, targets[rows] - fitted[rows])
        predicted[rows] = targets[rows] - rest
    return predicted


def _ridge(work: Workspace) -> Value:
    values, left = _turned(work)
    if not len(values):
        raise ScoreError("loo_ridge is not defined here: the features are constant")
    mean = work.columns.mean(axis=0)
    targets = work.columns - mean
    groups = None if work.groups is None else np.unique(work.groups, return_inverse=True)[1]
    if groups is not None and groups.max() == 0:
        raise ScoreError("groups: all rows are of one group, none can be left out")
    best: tuple[float, float, np.ndarray] | None = None
    for share in SHARES:
        penalty = share * float(values.mean())
        if groups is None:
            predicted = left_out(values, left, targets, penalty)
        else:
            predicted = left_out_groups(values, left, targets, penalty, groups)
        loss = float(np.mean((predicted - targets) ** 2))
        if best is None or loss < best[0]:
            best = (loss, share, predicted)
    assert best is not None
    predicted = best[2] + mean
    details = {
        "measure": MEASURES[work.kind],
        "penalty": best[1],
        "squared_error": best[0],
        "error": standard_error(work, predicted),
    }
    return Value(merit(work, predicted), details)


SCORE = Score(
    name="loo_ridge",
    title="Leave-one-out ridge",
    kinds=KINDS,
    formula="merit of y_i - e_i / (1 - h_ii), e and h of ridge regression on all rows",
    source="Allen 1974, Technometrics 16 (PRESS)",
    when="A value in units of the task (accuracy), for any kind of target, without training.",
    instead=("logme",),
    function=_ridge,
)
