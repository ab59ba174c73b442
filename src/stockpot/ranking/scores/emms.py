"""EMMS: how well features explain embeddings of the labels by several foundation models.

Features and embeddings are standardised; the target is a mixture of the K embeddings with weights
on the simplex, fitted in turn with the linear map from the features (one round, as in the authors'
code; weights by least squares, then sparsemax). The value is minus E/N times the squared residual.

All of it follows from the Gram matrix and ``X^T Y_k``: the N x D least squares is done once, not
twice, and K E columns share its factor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.ranking.scores.score import KINDS, Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

SMALL = 1e-8


def sparsemax(vector: np.ndarray) -> np.ndarray:
    """The nearest point of the simplex (Martins and Astudillo 2016, arXiv 1602.02068, alg. 1)."""
    ordered = np.sort(vector)[::-1]
    sums = np.cumsum(ordered)
    sizes = np.arange(1, len(vector) + 1)
    support = np.flatnonzero(1.0 + sizes * ordered > sums)[-1]
    return np.asarray(np.maximum(vector - (sums[support] - 1.0) / sizes[support], 0.0))


def _emms(work: Workspace) -> Value:
    from scipy.linalg import eigh

    embeddings = work.evidence.label_embeddings
    assert embeddings is not None
    labels = work.sorted(embeddings).astype(np.float64)
    labels = (labels - labels.mean(axis=0)) / (labels.std(axis=0) + SMALL)
    rows, width, count = labels.shape
    flat = labels.reshape(rows, width * count)
    if work.wide:
        features = work.centred()
        features /= np.sqrt((features * features).mean(axis=0)) + SMALL
        values, vectors = eigh(features @ features.T, check_finite=False)
        turned = vectors[:, _kept(values, rows)].T @ flat
    else:
        turned = _through_moments(work, flat)
    # In these coordinates the fit of any mixture is its own columns.
    turned = turned.reshape(-1, width, count)
    lam = np.full(count, 1.0 / count)
    fitted = turned @ lam
    gram = np.einsum("nek,nel->kl", labels, labels)
    lam = sparsemax(np.linalg.lstsq(gram, np.einsum("rek,re->k", turned, fitted), rcond=None)[0])
    target = float(lam @ gram @ lam)
    residual = target - 2.0 * float(np.vdot(turned @ lam, fitted)) + float(np.vdot(fitted, fitted))
    warning = None
    if residual < 1e-9 * target:
        warning = f"saturated: {rows} rows of these features fit any embedding; use more rows"
    return Value(-residual / rows * width, {"weights": [float(each) for each in lam]}, warning)


def _kept(values: np.ndarray, rows: int) -> np.ndarray:
    """Which eigenvalues, ascending, are more than rounding errors of the largest."""
    least = max(rows, len(values)) * np.finfo(np.float64).eps * max(values[-1], 1e-300)
    return np.asarray(values > least)


def _through_moments(work: Workspace, flat: np.ndarray) -> np.ndarray:
    """Columns in an orthonormal basis of the standardised features' column space."""
    from scipy.linalg import eigh

    rows = work.rows
    moments = work.moments(64)
    # Standardised features are z scale / (deviation + small), z those of the moments.
    scatter = moments.scaled_scatter()
    deviation = np.sqrt(np.maximum(np.diagonal(scatter), 0.0) / rows) * moments.scale
    weight = moments.scale / (deviation + SMALL)
    scatter *= weight
    scatter *= weight[:, None]
    cross = np.zeros((len(scatter), flat.shape[1]))
    for place, block in work.blocks():
        cross += (block / (deviation + SMALL)).T @ flat[place]
    values, vectors = eigh(scatter, lower=True, check_finite=False, overwrite_a=True)
    keep = _kept(values, rows)
    return np.asarray((vectors[:, keep] / np.sqrt(values[keep])).T @ cross)


SCORE = Score(
    name="emms",
    title="EMMS",
    needs=("features", "label_embeddings"),
    kinds=KINDS,
    formula="-min_{w, l in simplex} |X w - sum_k l_k Y_k|^2 E / N, one round",
    source="Meng et al. 2023, arXiv 2308.06262; `EMMS` in the authors' metrics.py",
    when="Labels with meaning (captions, answers, class names) and a text model to embed them.",
    instead=("logme",),
    function=_emms,
    cheap=False,
)
