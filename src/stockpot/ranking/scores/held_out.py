"""How good predictions for rows are that took no part in making them; one number a kind of task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

MEASURES = {
    "classification": "accuracy",
    "multilabel": "mean average precision",
    "regression": "explained variance",
}


def merit(work: Workspace, predicted: np.ndarray, rows: np.ndarray | None = None) -> float:
    """Merit of predictions (n, T) for rows of the work's targets; larger is better.

    Classification: share of rows whose largest prediction is of their class. Multi-label: average
    precision, mean over labels that some rows have and others lack. Regression: 1 - squared error
    over variance, mean over columns.
    """
    columns = work.columns if rows is None else work.columns[rows]
    if work.kind == "classification":
        return float(np.mean(predicted.argmax(axis=1) == columns.argmax(axis=1)))
    if work.kind == "multilabel":
        known = np.flatnonzero(columns.any(axis=0) & ~columns.all(axis=0))
        parts = [_average_precision(columns[:, each], predicted[:, each]) for each in known]
        return float(np.mean(parts)) if parts else 0.0
    variance = np.maximum(columns.var(axis=0), np.finfo(np.float64).tiny)
    return float(np.mean(1.0 - np.mean((predicted - columns) ** 2, axis=0) / variance))


def standard_error(work: Workspace, predicted: np.ndarray) -> float:
    """Standard error of :func:`merit` over all rows, of which each is left out; nan for several
    labels.

    An accuracy counts one success and one failure more: nothing is certain because 20 of 20 were
    right.
    """
    columns, rows = work.columns, len(work.columns)
    if work.kind == "classification":
        share = (merit(work, predicted) * rows + 1.0) / (rows + 2.0)
        return float(np.sqrt(share * (1.0 - share) / rows))
    if work.kind == "multilabel":
        return float("nan")
    squares = (predicted - columns) ** 2 / np.maximum(columns.var(axis=0), np.finfo(float).tiny)
    return float(squares.mean(axis=1).std() / np.sqrt(rows))


def _average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Area under precision over recall; rows of equal score are taken together."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(order) - 1)
    hits = np.cumsum(truth[order])[last]
    precision = hits / (last + 1.0)
    return float(np.sum(np.diff(hits, prepend=0.0) * precision) / hits[-1])
