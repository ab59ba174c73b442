"""Leave-one-out k nearest neighbours: do rows near each other have one label?

Nearness is the cosine of features centred by their mean; five neighbours, each weighing alike. Rows
of one group do not count as each other's neighbours. Features of a language model's CLS token do
badly here; pool the mean of layers instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.errors import ScoreError
from stockpot.ranking.scores.held_out import MEASURES, merit, standard_error
from stockpot.ranking.scores.score import KINDS, Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

NEIGHBOURS = 5


def _knn(work: Workspace) -> Value:
    if work.rows <= NEIGHBOURS:
        raise ScoreError(
            f"knn is not defined here: {work.rows} rows, expected more than {NEIGHBOURS}",
            hint="use logme instead",
        )
    features = work.centred()
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    features /= np.where(lengths > 0, lengths, 1.0)
    if work.features.dtype == np.float32:
        features = features.astype(np.float32)
    groups = work.groups
    predicted = np.empty((work.rows, work.columns.shape[1]))
    for start in range(0, work.rows, 512):
        block = features[start : start + 512] @ features.T
        index = np.arange(len(block))
        block[index, start + index] = -np.inf
        if groups is not None:
            block[groups[start : start + 512, None] == groups] = -np.inf
        nearest = np.argpartition(-block, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
        near = np.take_along_axis(block, nearest, axis=1).astype(np.float64)
        weights = np.isfinite(near).astype(np.float64)
        if not weights.any(axis=1).all():
            raise ScoreError("groups: a row has no neighbour outside its own group")
        if work.kind == "classification":
            # Among classes with as many votes the one nearest in all wins.
            weights *= 1.0 + 1e-6 * np.where(np.isfinite(near), near, 0.0)
        votes = np.einsum("nk,nkt->nt", weights, work.columns[nearest])
        predicted[start : start + 512] = votes / weights.sum(axis=1, keepdims=True)
    error = standard_error(work, predicted)
    details = {"measure": MEASURES[work.kind], "neighbours": NEIGHBOURS, "error": error}
    return Value(merit(work, predicted), details)


SCORE = Score(
    name="knn",
    title="k nearest neighbours",
    kinds=KINDS,
    formula="merit of the mean target of the 5 rows of largest cosine, leaving the row out",
    source="Cover and Hart 1967, IEEE Trans. Inf. Theory 13; first of 23 metrics in 2503.18528",
    when="Image models, where it was the best of 23 metrics; any kind of target.",
    instead=("loo_ridge", "logme"),
    function=_knn,
)
