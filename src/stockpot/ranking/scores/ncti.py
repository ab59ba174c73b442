"""NCTI: how near the features are to neural collapse, in a pool of models.

On 64 principal components, with linear discriminant analysis (shrunk by exp(-variance of the first
32 components) where that exceeds 1e-10): the nuclear norm of the discriminant features (large: no
dimension lost), the mean probability of the right class, and minus the log of the sum of the
classes' nuclear norms of posteriors (small: a class's rows agree). Each is brought to 0 .. 1 over
the pool and added; alone, the value is the mean probability.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from stockpot.errors import ScoreError
from stockpot.ranking.scores.etran import unit_range
from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

COMPONENTS = 64


def _ncti(work: Workspace) -> Value:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    if work.rows <= len(work.classes):
        raise ScoreError(
            f"ncti is not defined here: {work.rows} rows of {len(work.classes)} classes leave "
            "no variance within classes",
            hint="use logme instead",
        )
    scores = work.principal(COMPONENTS)
    variance = (scores * scores).sum(axis=0) / (work.rows - 1)
    amount = max(float(np.exp(-variance[:32].sum())), 1e-10)
    if amount == 1e-10:
        fitted = LinearDiscriminantAnalysis(solver="svd")
    else:
        fitted = LinearDiscriminantAnalysis(solver="eigen", shrinkage=amount)
    alone = int(np.count_nonzero(work.counts == 1))
    with warnings.catch_warnings():
        # A class of one row has no variance, which the value's own warning says.
        warnings.simplefilter("ignore", UserWarning)
        low = fitted.fit_transform(scores, work.codes)
    posterior = fitted.predict_proba(scores)
    right = float(posterior[np.arange(work.rows), work.codes].mean())
    parts = np.split(posterior, work.starts[1:])
    compact = float(np.log(sum(np.linalg.norm(part, "nuc") for part in parts)))
    span = float(np.linalg.norm(low - low.mean(axis=0), "nuc"))
    warning = f"{alone} classes have one row, whose variance is unknown" if alone else None
    return Value(right, {"span": span, "confidence": right, "spread": compact}, warning)


def _pool(values: list[Value]) -> list[Value]:
    span, right, spread = (
        unit_range(np.array([value.details[name] for value in values]))
        for name in ("span", "confidence", "spread")
    )
    totals = span + right - spread
    return [
        Value(float(total), value.details, value.warning)
        for total, value in zip(totals, values, strict=True)
    ]


SCORE = Score(
    name="ncti",
    title="NCTI",
    needs=("features",),
    kinds=("classification",),
    formula="unit(|LDA(x)|_*) + unit(mean p(y_i | x_i)) - unit(log sum_c |p(. | X_c)|_*) in a pool",
    source="Wang et al. 2023, ICCV, How far pre-trained models are from neural collapse",
    when="A pool of similar models; a value changes with the pool.",
    instead=("sfda", "logme"),
    function=_ncti,
    pool=_pool,
)
