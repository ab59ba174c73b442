"""NCE: conditional entropy of the target classes, given the source model's predicted class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace


def conditional_entropy(joint: np.ndarray) -> float:
    """``H(row | column)`` in nats of a joint distribution, shape (C, Z)."""
    marginal = joint.sum(axis=0, keepdims=True)
    share = np.divide(joint, marginal, out=np.ones_like(joint), where=joint > 0)
    return float(-np.sum(joint * np.log(share)))


def _nce(work: Workspace) -> Value:
    logits = work.evidence.logits
    assert logits is not None
    predicted = work.sorted(logits).argmax(axis=1)
    joint = np.zeros((len(work.classes), logits.shape[1]))
    np.add.at(joint, (work.codes, predicted), 1.0 / work.rows)
    return Value(
        -conditional_entropy(joint), {"predicted_classes": int(np.count_nonzero(joint.sum(0)))}
    )


SCORE = Score(
    name="nce",
    title="NCE",
    needs=("logits",),
    formula="-H(y | argmax_z p(z | x))",
    source="Tran et al. 2019, arXiv 1908.08142; tllib's nce.py",
    when="As LEEP, where only hard predictions of the source head are known.",
    instead=("nleep", "logme"),
    function=_nce,
)
