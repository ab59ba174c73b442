"""SFDA: how confidently a Fisher discriminant tells the classes apart, once they are made harder.

A first discriminant gives each row's probability p of its class; the softmax of these
probabilities says how far the row is drawn towards the mean of the other classes' means (ConfMix,
``x <- p x + (1 - p) o``); a second discriminant is fitted to these rows, and the value is its mean
probability of the right class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.ranking.gram import CHUNK, Moments
from stockpot.ranking.scores.discriminant import discriminant, uncertainty
from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

_GOOD = 1e-6
SATURATED = 0.9999


def _attempt(work: Workspace, precision: int) -> tuple[float, float, float]:
    """Value, how far rounding may move it, and shrinkage, with products of this precision."""
    first = work.moments(precision)
    fitted, told = work.discriminant(precision)
    doubt = fitted.logit_error * uncertainty(told.top)
    kind = first.shift.dtype
    mean = first.mean.astype(kind)
    means = first.centred_class_means() * first.scale + (first.mean - mean)
    others = ((means.sum(axis=0) - means) / (len(means) - 1)).astype(kind)
    mixed = Moments(classes=len(means), precision=precision)
    rows = np.empty(work.features.shape, dtype=kind)
    for start in range(0, work.rows, CHUNK):
        stop = start + CHUNK
        codes = work.codes[start:stop]
        share = told.share[start:stop].astype(kind)[:, None]
        away = others[codes]
        np.subtract(work.features[start:stop], mean, out=rows[start:stop], casting="same_kind")
        rows[start:stop] -= away
        rows[start:stop] *= share
        rows[start:stop] += away
    mixed.add(rows, work.codes)
    again = discriminant(mixed, fitted.shrinkage)
    right = again.told(rows, work.codes, mixed.mean).right
    doubt += again.logit_error * uncertainty(right)
    return float(right.mean()), doubt, fitted.shrinkage


def _sfda(work: Workspace) -> Value:
    for precision in work.precisions:
        value, doubt, shrinkage = _attempt(work, precision)
        if doubt <= _GOOD:
            break
    warning = None
    if value > SATURATED:
        warning = (
            f"saturated: {work.rows} rows of {work.features.shape[1]} features separate any "
            "labels; use more rows, or LogME"
        )
    elif doubt > _GOOD:
        warning = f"rounding may change the value by {doubt:.1g}: features nearly dependent"
    return Value(value, {"shrinkage": shrinkage, "precision": precision}, warning)


SCORE = Score(
    name="sfda",
    title="SFDA",
    formula="mean_i p_2(y_i | x'_i), x' = p_1 x + (1 - p_1) o_y, discriminants p_1, p_2",
    source="Shao et al. 2022, arXiv 2207.03036; the authors' metrics.py",
    when="Many rows of many classes, supervised and self-supervised models mixed.",
    instead=("logme", "reg_hscore"),
    function=_sfda,
)
