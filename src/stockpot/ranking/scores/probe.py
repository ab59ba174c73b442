"""Linear probe: the best linear head, fitted on some rows and judged on others.

Rows (or groups of rows) are split 60 : 20 : 20 by the evidence's seed: the head is fitted on the
first part, its penalty chosen on the second, and the third says how good it is. The head is that of
``stockpot.training.probe``, the one fine-tuning starts from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.errors import ScoreError
from stockpot.ranking.scores.held_out import MEASURES, merit
from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace


def _split(work: Workspace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the three parts; classes are spread over them alike."""
    rng = np.random.default_rng(work.seed)
    if work.groups is not None:
        _, groups = np.unique(work.groups, return_inverse=True)
        part = (rng.permutation(groups.max() + 1) % 5)[groups]
    else:
        part = np.empty(work.rows, dtype=np.int64)
        order = rng.permutation(work.rows)
        if work.kind == "classification":
            order = order[np.argsort(work.codes[order], kind="stable")]
        part[order] = np.arange(work.rows) % 5
    return np.flatnonzero(part < 3), np.flatnonzero(part == 3), np.flatnonzero(part == 4)


def _probe(work: Workspace) -> Value:
    from stockpot.training.probe import linear_probe

    fit, choose, judge = _split(work)
    if not len(choose) or not len(judge):
        raise ScoreError(
            f"linear_probe is not defined here: {work.rows} rows cannot be split in three parts",
            hint="use loo_ridge instead",
        )
    predicted = np.empty((len(judge), work.columns.shape[1]))
    features = work.features
    if work.kind == "classification":
        weight, bias = linear_probe(
            features[fit],
            work.codes[fit],
            features[choose],
            work.codes[choose],
            n_outputs=len(work.classes),
            kind="classification",
        )
        predicted[:] = features[judge] @ weight.T + bias
    else:
        for column, target in enumerate(work.columns.T):
            weight, bias = linear_probe(
                features[fit],
                target[fit],
                features[choose],
                target[choose],
                n_outputs=1,
                kind="regression",
            )
            predicted[:, column] = features[judge] @ weight[0] + bias[0]
    details = {"measure": MEASURES[work.kind], "rows": len(fit), "judged_on": len(judge)}
    return Value(merit(work, predicted, judge), details)


SCORE = Score(
    name="linear_probe",
    title="Linear probe",
    kinds=("classification", "regression"),
    formula="merit on 20 % of the rows of a penalised linear head fitted on 60 %",
    source="Alain and Bengio 2016, arXiv 1610.01644",
    when="The truest of the scores here where minutes are affordable.",
    instead=("loo_ridge", "logme"),
    function=_probe,
    cheap=False,
)
