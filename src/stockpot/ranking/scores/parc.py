"""PARC: do rows that differ in label differ in features? A rank correlation over pairs of rows.

Features go to 32 principal components, standardised; the distance of two rows is one minus the
correlation of their 32 numbers, and likewise for their labels. The value is 100 times Spearman's
correlation of the two over all pairs.

Labels of a classification have two distances only. The correlation is then
``(mean rank of different - mean rank of same) sqrt(p q) / std(rank)``, p and q the shares of the
two kinds of pairs: one sort, no ranks. Beyond 4,000 rows a stratified subsample is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.errors import ScoreError
from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

COMPONENTS = 32
MOST_ROWS = 4000


def _correlations(rows: np.ndarray) -> np.ndarray:
    """Correlations of all pairs of rows, float64, shape (n, n)."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows @ rows.T)


def two_valued_spearman(distances: np.ndarray, same: np.ndarray) -> float:
    """Spearman's correlation of distances (n,) with "is not the same" (n,), ties averaged."""
    count = len(distances)
    ordered = np.sort(distances)
    within = np.sort(distances[same])
    low = np.searchsorted(ordered, within, side="left")
    high = np.searchsorted(ordered, within, side="right")
    inside = float(np.mean(0.5 * (low + high + 1.0)))
    share = len(within) / count
    outside = (0.5 * (count + 1.0) - share * inside) / (1.0 - share)
    edges = np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1, [count]])
    ties = np.diff(edges).astype(np.float64)
    variance = (float(count) ** 2 - 1.0 - float(np.sum(ties**3 - ties)) / count) / 12.0
    if variance <= 0:
        return 0.0
    return (outside - inside) * float(np.sqrt(share * (1.0 - share) / variance))


def _parc(work: Workspace) -> Value:
    rows = work.subsample(MOST_ROWS)
    labels = work.columns[rows]
    if work.kind == "multilabel":
        rows = rows[(labels.min(axis=1) == 0) & (labels.max(axis=1) == 1)]
        labels = work.columns[rows]
        if len(rows) < 3 or labels.shape[1] < 3:
            raise ScoreError(
                "parc is not defined here: a row needs one label of several and must lack one",
                hint="use logme instead",
            )
    scores = work.principal(COMPONENTS)[rows]
    spread = scores.std(axis=0)
    scores = (scores - scores.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    if scores.shape[1] < 2:
        raise ScoreError(
            "parc is not defined here: the features have one direction only",
            hint="use logme instead",
        )
    upper = np.triu_indices(len(rows), 1)
    distances = 1.0 - _correlations(scores)[upper]
    if work.kind == "multilabel":
        from scipy.stats import spearmanr

        # Few distinct values: those that differ by rounding only must be ties.
        unlike = np.round(1.0 - _correlations(labels)[upper], 12)
        value = float(spearmanr(distances, unlike).statistic)
    else:
        same = (work.codes[rows][:, None] == work.codes[rows])[upper]
        if not same.any():
            raise ScoreError(
                "parc is not defined here: no two rows are of one class",
                hint="use logme instead",
            )
        value = two_valued_spearman(distances, same)
    left_out = work.rows - len(rows)
    details = {"rows": len(rows), "components": scores.shape[1], "rows_left_out": left_out}
    return Value(100.0 * value, details)


SCORE = Score(
    name="parc",
    title="PARC",
    kinds=("classification", "multilabel"),
    formula="100 Spearman(1 - corr(x_i, x_j), 1 - corr(y_i, y_j)), PCA 32",
    source="Bolya et al. 2021, arXiv 2111.06977; PARC in SFDA's metrics.py",
    when="Few rows (500); multi-label tasks beside LogME.",
    instead=("logme",),
    function=_parc,
    cheap=False,
)
