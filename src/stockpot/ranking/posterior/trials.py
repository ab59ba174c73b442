"""Tasks of the history played as if they were new."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stockpot.ranking.history.table import Mask
from stockpot.ranking.posterior.covariance import Rows

_TRIALS = 72


@dataclass(frozen=True)
class Trial:
    """A task left out, models revealed, models to predict."""

    task: int
    anchors: Rows
    rest: Rows


def draw_trials(known: Mask, tasks: Rows, anchors: int, random: np.random.Generator) -> list[Trial]:
    """Each of ``tasks`` with ``anchors`` models revealed, at most half of those that have a result.

    A short history is played several times with other anchors, to :data:`_TRIALS` trials.
    """
    repeats = 1 if anchors == 0 else max(1, -(-_TRIALS // len(tasks)))
    trials = []
    for task in tasks:
        models = np.flatnonzero(known[:, task])
        for _ in range(repeats):
            some = np.sort(random.choice(models, min(anchors, len(models) // 2), replace=False))
            trials.append(Trial(int(task), some, np.setdiff1d(models, some)))
    return trials
