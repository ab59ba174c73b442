"""LEEP: how well the target classes can be read off the source model's own predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace


def log_expected_prediction(
    probabilities: np.ndarray, codes: np.ndarray, starts: np.ndarray
) -> float:
    """``mean_i log sum_z P(y_i | z) p_iz`` with ``P(y | z)`` from the soft counts.

    Args:
        probabilities: source posterior of each row, shape (N, Z), rows sorted by class.
        codes: class 0 .. C - 1 of each row, ascending. starts: first row of each class.

    The sum over z is taken for the row's own class only: N Z products instead of N Z C.
    """
    joint = np.add.reduceat(probabilities, starts, axis=0)
    marginal = joint.sum(axis=0)
    conditional = np.divide(joint, marginal, out=np.zeros_like(joint), where=marginal > 0)
    stops = np.append(starts[1:], len(codes))
    predicted = np.empty(len(codes))
    for row, start, stop in zip(conditional, starts, stops, strict=True):
        predicted[start:stop] = probabilities[start:stop] @ row
    return float(np.mean(np.log(predicted)))


def _leep(work: Workspace) -> Value:
    value = log_expected_prediction(work.probabilities, work.codes, work.starts)
    return Value(value, {"source_classes": work.probabilities.shape[1]})


SCORE = Score(
    name="leep",
    title="LEEP",
    needs=("logits",),
    formula="mean_i log sum_z P(y_i | z) p(z | x_i)",
    source="Nguyen et al. 2020, arXiv 2002.12462; tllib's leep.py",
    when="Models with a classification head of their own; features are not needed.",
    instead=("nleep", "logme"),
    function=_leep,
)
