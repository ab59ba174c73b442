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
from stockpot.ranking.scores.discriminant import Discriminant
from stockpot.ranking.scores.etran import unit_range
from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

COMPONENTS = 64


def nuclear_norm(matrix: np.ndarray) -> float:
    """Sum of singular values, as roots of eigenvalues of the smaller Gram matrix.

    Six times faster than singular values of a hundred rows and a thousand columns. Singular values
    below 1e-8 of the largest are lost in rounding, which changes the sum by as little.
    """
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(small), 0.0)).sum())


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
    linear = Discriminant(fitted.coef_.T, fitted.intercept_, amount, 0.0)
    if len(work.classes) == 2:
        # scikit-learn keeps the difference of two logits only.
        both = np.zeros((scores.shape[1], 2)), np.zeros(2)
        both[0][:, 1], both[1][1] = fitted.coef_[0], fitted.intercept_[0]
        linear = Discriminant(*both, amount, 0.0)
    right = float(linear.told(scores, work.codes).right.mean())
    compact = 0.0
    for start, count in zip(work.starts, work.counts, strict=True):
        # A class may be larger than a block of the posterior, and parts do not add up.
        own = [block.copy() for _, block in linear.posterior(scores[start : start + count])]
        compact += nuclear_norm(own[0] if len(own) == 1 else np.concatenate(own))
    compact = float(np.log(compact))
    span = nuclear_norm(low - low.mean(axis=0))
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
    formula="unit(|LDA(x)|_*) + unit(mean p(y_i | x_i)) - unit(log sum_c |p(. | X_c)|_*) in a pool",
    source="Wang et al. 2023, ICCV, How far pre-trained models are from neural collapse",
    when="A pool of similar models; a value changes with the pool.",
    instead=("sfda", "logme"),
    function=_ncti,
    pool=_pool,
)
