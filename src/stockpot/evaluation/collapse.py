"""When weights are so much worse than those a run started from that no average wants them.

Judged by accuracy or R2, whatever metric a recipe selects by: a run may well get worse by another
metric, such as calibration, while it learns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stockpot.errors import InputError
from stockpot.evaluation.metrics import Kind, default_metric

ByDomain = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Start:
    """What a run began with, on validation: its ``score`` (accuracy or R2, mean over domains) with
    its standard ``error``, and the score of the best ``constant`` answer.
    """

    score: float
    error: float
    constant: float

    def halved(self, score: float) -> bool:
        """Whether more than half of the lead over a constant answer is gone, where there is one."""
        lead = self.score - self.constant
        return lead > 0 and score < self.score - lead / 2

    def collapsed(self, score: float | None) -> bool:
        """Whether weights with this ``score`` have lost what the start had.

        They have where more than half of the start's lead over a constant answer is gone, and the
        score is below the start's own 95 % interval. A run that is merely somewhat worse than its
        start stays: averages of such runs can be better than all of them. On few rows the interval
        decides, on many the lead.
        """
        if score is None:
            return False
        lead = max(self.score - self.constant, 0.0)
        return score < min(self.score - lead / 2, self.score - 1.96 * self.error)


def measure_start(outputs: ByDomain, labels: ByDomain, kind: Kind) -> Start:
    """``Start`` of predictions and labels by domain.

    Where accuracy or R2 is defined in no domain, one by which nothing collapses.
    """
    scores = _row_scores(outputs, labels, kind)
    if not scores:
        return Start(-np.inf, 0.0, 0.0)
    constants = [
        np.unique(labels[name], return_counts=True)[1].max() / len(labels[name])
        if kind == "classification"
        else 0.0  # R2 of the mean label
        for name in scores
    ]
    variances = [own.var(ddof=1) / len(own) if len(own) > 1 else 0.0 for own in scores.values()]
    return Start(
        float(np.mean([own.mean() for own in scores.values()])),
        float(np.sqrt(np.sum(variances)) / len(scores)),
        float(np.mean(constants)),
    )


def plain_score(outputs: ByDomain, labels: ByDomain, kind: Kind) -> float | None:
    """Accuracy or R2, mean over the domains where it is defined; None where it is in none."""
    scores = _row_scores(outputs, labels, kind)
    return float(np.mean([own.mean() for own in scores.values()])) if scores else None


def _row_scores(outputs: ByDomain, labels: ByDomain, kind: Kind) -> dict[str, Any]:
    metric, scores = default_metric(kind), {}
    for name, own in labels.items():
        try:
            metric.check_labels(own)
        except InputError:  # R2 of labels that are all the same
            continue
        scores[name] = metric.row_scores(outputs[name], own)
    return scores
