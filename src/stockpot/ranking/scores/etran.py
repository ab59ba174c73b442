"""ETran: energy of the features, and a discriminant's confidence (or a regression's error).

Energy is the mean of ``logsumexp(x)`` over the half percent of rows where it is least, as in the
authors' classification experiment. Over a pool of models both parts are brought to 0 .. 1 and
added with weights 0.15 and 0.85; alone, the value is the second part.

The authors' discriminant takes eigenvectors of ``S_w^-1 S_b`` with a routine for symmetric
matrices, which this is not. They come out orthonormal, so their posterior is that of the nearest
class mean, S_w plays no part. The value has the posterior of linear discriminant
analysis, which the paper describes;
``nearest_mean`` is theirs. For a regression the second part is minus the mean squared
error of least squares through the singular value decomposition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.ranking.scores.discriminant import Discriminant, uncertainty
from stockpot.ranking.scores.hscore import reduced
from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

SHARE = 0.005
WEIGHTS = (0.15, 0.85)
_GOOD = 1e-6


def _energy(work: Workspace) -> float:
    rows = np.empty(work.rows)
    for start in range(0, work.rows, 1024):
        block = work.features[start : start + 1024]
        top = block.max(axis=1, keepdims=True)
        total = np.exp(block - top).sum(axis=1, dtype=np.float64)
        rows[start : start + 1024] = np.log(total) + top[:, 0]
    lowest = max(1, int(SHARE * work.rows))
    return float(np.partition(rows, lowest - 1)[:lowest].mean())


def nearest_mean(work: Workspace) -> float:
    """Mean probability of the right class by the nearest class mean: the authors' posterior."""
    moments = work.moments(work.precisions[-1])
    means = (moments.centred_class_means() * moments.scale).T
    bias = np.log(work.counts / work.rows) - 0.5 * np.einsum("ij,ij->j", means, means)
    told = Discriminant(means, bias, 0.0, 0.0).told(work.centred(), work.codes)
    return float(told.right.mean())


def _classification(work: Workspace) -> tuple[float, dict[str, float]]:
    for precision in work.precisions:
        fitted, told = work.discriminant(precision)
        right = told.right
        if fitted.logit_error * uncertainty(right) <= _GOOD:
            break
    return float(right.mean()), {"shrinkage": fitted.shrinkage}


def _regression(work: Workspace) -> tuple[float, dict[str, float]]:
    """Minus the mean squared residual of least squares without an offset."""
    targets = work.columns
    if work.wide:
        from scipy.linalg import lstsq

        features = work.features.astype(np.float64)
        rest = features @ lstsq(features, targets, check_finite=False)[0] - targets
        return -float(np.mean(rest * rest)), {}
    moments = work.moments(64)
    half, _, _ = reduced(moments.gram(), moments.feature_targets().T)
    explained = np.einsum("ij,ij->j", half, half)
    rest = np.maximum(moments.target_squares - explained, 0.0) / work.rows
    return -float(rest.mean()), {}


def _etran(work: Workspace) -> Value:
    part, details = (_classification if work.kind == "classification" else _regression)(work)
    return Value(part, {"energy": _energy(work), "fit": part, **details})


def _pool(values: list[Value]) -> list[Value]:
    energy, fit = (
        unit_range(np.array([value.details[name] for value in values]))
        for name in ("energy", "fit")
    )
    return [
        Value(float(WEIGHTS[0] * e + WEIGHTS[1] * f), value.details, value.warning)
        for e, f, value in zip(energy, fit, values, strict=True)
    ]


def unit_range(numbers: np.ndarray) -> np.ndarray:
    """Numbers of a pool brought to 0 .. 1; all 0 if they are equal."""
    width = float(np.ptp(numbers))
    return np.asarray((numbers - numbers.min()) / (width if width > 0 else 1.0))


SCORE = Score(
    name="etran",
    title="ETran",
    kinds=("classification", "regression"),
    formula="0.15 unit(mean lowest logsumexp(x)) + 0.85 unit(mean p_LDA(y_i | x_i)) over a pool",
    source="Gholami et al. 2023, ICCV, arXiv 2308.02027; the authors' metrics.py and tw.py",
    when="A pool of similar models; a value changes with the pool.",
    instead=("sfda", "logme"),
    function=_etran,
    pool=_pool,
)
