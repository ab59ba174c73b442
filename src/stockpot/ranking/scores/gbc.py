"""GBC: how little the classes overlap, each taken as a Gaussian.

Features are projected onto 64 principal components; a class is a Gaussian with one variance
("spherical"), or one a component ("diagonal"). Variances below 1e-4 count as 1e-4, as in the
authors' code, so a class of one row is a ball of that size.

The authors' code takes the determinant of a spherical covariance to be its single variance, and so
leaves out a factor of 64 before the logarithm. The value here has the determinant, as the
Bhattacharyya distance has; ``details["authors"]`` is theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

COMPONENTS = 64
LEAST_VARIANCE = 1e-4


def overlap(means: np.ndarray, variances: np.ndarray, *dimensions: float) -> list[float]:
    """``sum_{c != d} exp(-DB(c, d))`` of Gaussians (C, K), variances (C, K) or (C, 1).

    dimensions: how many components one column of ``variances`` stands for; a sum for each.
    """
    totals = [0.0] * len(dimensions)
    logs = _log_products(variances)
    for row in range(len(means) - 1):
        middle = 0.5 * (variances[row] + variances[row + 1 :])
        apart = ((means[row] - means[row + 1 :]) ** 2 / middle).sum(axis=1) / 8.0
        shape = _log_products(middle) - 0.5 * (logs[row] + logs[row + 1 :])
        for place, each in enumerate(dimensions):
            totals[place] += 2.0 * float(np.exp(-apart - 0.5 * each * shape).sum())
    return totals


def _log_products(values: np.ndarray) -> np.ndarray:
    """Sum of logarithms of rows, with one logarithm for four values, which cannot overflow unless
    they exceed 1e75."""
    quads = values.shape[1] // 4 * 4
    total = np.log(values[:, quads:]).sum(axis=1)
    if quads:
        product = values[:, 0:quads:4] * values[:, 1:quads:4]
        product *= values[:, 2:quads:4]
        product *= values[:, 3:quads:4]
        total += np.log(product).sum(axis=1)
    return np.asarray(total)


def _gbc(work: Workspace) -> Value:
    scores = work.principal(COMPONENTS)
    counts = work.counts[:, None]
    means = np.add.reduceat(scores, work.starts, axis=0) / counts
    rest = scores - means[work.codes]
    variances = np.add.reduceat(rest * rest, work.starts, axis=0) / counts
    variances = np.maximum(variances, LEAST_VARIANCE)
    single = variances.mean(axis=1, keepdims=True)
    size = scores.shape[1]
    (diagonal,) = overlap(means, variances, 1.0)
    authors, value = overlap(means, single, 1.0, float(size))
    details = {"diagonal": -diagonal, "authors": -authors, "components": size}
    alone = int(np.count_nonzero(work.counts == 1))
    warning = f"{alone} classes have one row, whose variance is unknown" if alone else None
    return Value(-value, details, warning)


SCORE = Score(
    name="gbc",
    title="GBC",
    formula="-sum_{c != d} exp(-DB(c, d)), Bhattacharyya distance of spherical Gaussians, PCA 64",
    source="Pandy et al. 2022, arXiv 2111.12780; gbc.py in google-research's stable_transfer",
    when="A quick look at class overlap; weak on self-supervised models.",
    instead=("logme", "reg_hscore"),
    function=_gbc,
)
