"""Occam's measures: mean distance between classes, and concept variance among neighbours.

INT is the mean over pairs of classes of the mean distance of their rows. Concept variance takes
features scaled to 0 .. 1 and asks of each row what weighted share of the others has another class,
with weights ``2^(-2 d / (sqrt(D) - d))``: near rows count most. The value is minus its mean.

Both look at all pairs; beyond 4,000 rows a stratified subsample is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stockpot.ranking.scores.workspace import Workspace

MOST_ROWS = 4000
DECAY = 2.0
LEAST = 1e-9
_BLOCK = 512  # rows of distances at a time


def _distances(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Distances of rows (n, D), float64, to all rows, in blocks; zero on the diagonal."""
    squares = np.einsum("ij,ij->i", rows, rows)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        square = squares[start : start + _BLOCK, None] + squares - 2.0 * (block @ rows.T)
        np.maximum(square, 0.0, out=square)
        index = np.arange(len(block))
        square[index, start + index] = 0.0
        yield start, np.sqrt(square, out=square)


def _int(work: Workspace) -> Value:
    rows = work.subsample(MOST_ROWS)
    codes = work.codes[rows]
    present, starts, counts = np.unique(codes, return_index=True, return_counts=True)
    features = np.asarray(work.features[rows] - work.mean, dtype=np.float64)
    sums = np.zeros((len(present), len(present)))
    places = np.searchsorted(present, codes)
    for start, block in _distances(features):
        np.add.at(sums, places[start : start + len(block)], np.add.reduceat(block, starts, axis=1))
    means = sums / np.outer(counts, counts)
    upper = np.triu_indices(len(present), 1)
    return Value(float(means[upper].mean()), {"rows": len(rows), "classes": len(present)})


def _concept(work: Workspace) -> Value:
    rows = work.subsample(MOST_ROWS)
    codes = work.codes[rows]
    _, starts = np.unique(codes, return_index=True)
    stops = np.append(starts[1:], len(rows))
    features = np.asarray(work.features[rows], dtype=np.float64)
    low, high = features.min(axis=0), features.max(axis=0)
    features = (features - low) / np.where(high > low, high - low, 1.0)
    limit = np.sqrt(features.shape[1])
    place = np.repeat(np.arange(len(starts)), stops - starts)
    other = np.empty(len(rows))
    for start, block in _distances(features):
        rest = limit - block
        weights = np.exp2(-DECAY * block / np.where(rest > 0, rest, LEAST))
        index = np.arange(len(block))
        weights[index, start + index] = 0.0
        inside = np.add.reduceat(weights, starts, axis=1)[index, place[start : start + len(block)]]
        total = weights.sum(axis=1)
        other[start : start + len(block)] = np.divide(
            total - inside, total, out=np.zeros(len(block)), where=total > 0
        )
    return Value(-float(other.mean()), {"rows": len(rows)})


_PAPER = "Singh et al. 2025, arXiv 2502.06925"
INT = Score(
    name="int",
    title="INT (Occam)",
    formula="mean over class pairs of mean |x_i - x_j|",
    source=f"{_PAPER}; pymfe's 'int'",
    when="Models of one family: it grows with the scale of the features.",
    instead=("logme",),
    function=_int,
    cheap=False,
)
CONCEPT = Score(
    name="concept_variance",
    title="Concept variance (Occam)",
    formula="-mean_i sum_j w_ij [y_i != y_j] / sum_j w_ij, w = 2^(-2 d / (sqrt(D) - d))",
    source=f"{_PAPER}; Vilalta 1999; pymfe's 'conceptvar'",
    when="As kNN, without a choice of k.",
    instead=("knn", "logme"),
    function=_concept,
    cheap=False,
)
