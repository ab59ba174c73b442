"""PED: classes pushed apart as charges are, before another score looks at the features.

A class is a ball around its mean with radius 0.6 times the root of its total variance, in features
scaled by the mean and deviation of the source data. Balls that overlap repel by the depth of
overlap F: a step moves each by ``min(F t^2 / 2, F)``, t = 0.1, along the line of centres. Steps go
on, six at most, while the total movement is more than half of the first step's.

Only class means move, by the same vector for all rows of a class, so the simulation runs on the
C x C matrix of their inner products and never touches the rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from stockpot.ranking.scores import logme, sfda
from stockpot.ranking.scores.score import Evidence, Score, Value
from stockpot.ranking.scores.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable

RADIUS = 0.6
STEP = 0.1
EXIT = 0.5
STEPS = 6
LEAST_DEVIATION = 1e-3


def displacements(
    means: np.ndarray, radii: np.ndarray, *, step: float = STEP
) -> tuple[np.ndarray, int]:
    """How far each class moves in all, shape (C, D), and the number of steps.

    means: (C, D). radii: (C,).
    """
    start = means.copy()
    first = 0.0
    for taken in range(STEPS):
        gram = means @ means.T
        squares = np.diagonal(gram)
        apart = np.sqrt(np.maximum(squares[:, None] + squares - 2.0 * gram, 0.0))
        force = np.maximum(radii[:, None] + radii - apart, 0.0)
        move = np.minimum(0.5 * step**2 * force, force)
        # Two classes with one mean have no line of centres: they do not move each other.
        pull = np.divide(move, apart, out=np.zeros_like(move), where=apart > 0)
        np.fill_diagonal(pull, 0.0)
        delta = pull.sum(axis=1, keepdims=True) * means - pull @ means
        total = float(np.abs(delta).sum())
        if taken == 0:
            first = total
        if first == 0.0 or total <= EXIT * first:
            return means - start, taken
        means = means + delta
    return means - start, STEPS


def push_apart(work: Workspace) -> tuple[Evidence, int]:
    """The evidence with its features moved, rows sorted by class; and the number of steps."""
    source = work.evidence.source
    assert source is not None
    deviation = np.maximum(source.features.std(axis=0, dtype=np.float64), LEAST_DEVIATION)
    # The source mean shifts all classes alike, which no distance sees.
    means = np.empty((len(work.classes), work.features.shape[1]))
    radii = np.empty(len(means))
    for code, start in enumerate(work.starts):
        rows = work.centred(start, start + work.counts[code]) / deviation
        means[code] = rows.mean(axis=0)
        radii[code] = RADIUS * np.sqrt(rows.var(axis=0).sum())
    moved, steps = displacements(means, radii)
    features = work.features + (moved * deviation)[work.codes]
    return replace(
        work.evidence,
        features=features.astype(work.features.dtype, copy=False),
        targets=work.codes,
        pair=None,
        moments=None,
    ), steps


def _after(score: Score) -> Callable[[Workspace], Value]:
    def value(work: Workspace) -> Value:
        evidence, steps = push_apart(work)
        inner = score.function(Workspace(evidence))
        return Value(inner.value, {**inner.details, "steps": steps}, inner.warning)

    return value


def _variant(score: Score) -> Score:
    return Score(
        name=f"ped_{score.name}",
        title=f"PED + {score.title}",
        needs=("features", "source"),
        formula=f"{score.title} of x + shift of its class, shifts from repelling balls",
        source="Li et al. 2023, ICCV, arXiv 2308.15074; the authors' metrics.py",
        when="Self-supervised models, whose classes overlap before fine-tuning.",
        instead=(score.name,),
        function=_after(score),
        cheap=False,
    )


SFDA = _variant(sfda.SCORE)
LOGME = _variant(logme.SCORE)
