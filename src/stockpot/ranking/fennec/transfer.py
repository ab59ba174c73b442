"""Fennec's transfer matrix: how well a model's features tell the classes of a task apart."""

from __future__ import annotations

import numpy as np

from stockpot.errors import InputError

COMPONENTS = 32


def fisher_score(features: np.ndarray, labels: np.ndarray, *, seed: int = 1919) -> float:
    """Mean probability that Fisher's discriminant gives the right class, in (0, 1].

    ``features`` (N, D), ``labels`` (N,). The features are reduced to 32 principal components
    (randomised, one power iteration), then classified by linear discriminant analysis without
    shrinkage (generalised eigenvectors of between- and within-class scatter), and the probability
    of every example's own class is averaged: the probability, not its logarithm (Fennec's code; the
    idea is that of SFDA, Shao et al. 2022). Examples are scored by the classifier that they were
    fitted with, so values near 1 at few examples say little.

    Raises ``InputError`` for features that are not finite, or fewer than two classes.
    """
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) != len(labels):
        raise InputError(
            f"Fisher score: features {values.shape} do not fit labels {np.shape(labels)}"
        )
    if not np.isfinite(values).all():
        raise InputError("Fisher score: the features are not finite")
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError("Fisher score: the labels hold one class, two are needed")
    values = values[:, np.ptp(values, axis=0) > 0]
    if values.shape[1] == 0:
        return 1.0 / len(classes)
    kept = min(COMPONENTS, len(values) - len(classes), values.shape[1])
    if kept < 1:
        raise InputError(
            f"Fisher score: {len(values)} examples of {len(classes)} classes are too few"
        )
    reduced = PCA(kept, svd_solver="randomized", iterated_power=1, random_state=seed).fit_transform(
        values
    )
    # Components without variance make the within-class scatter singular; they tell nothing apart.
    spread = reduced.std(axis=0)
    reduced = reduced[:, spread > 1e-9 * spread.max(initial=0.0)]
    try:
        model = LinearDiscriminantAnalysis(solver="eigen").fit(reduced, codes)
    except np.linalg.LinAlgError:  # classes of which some direction has no variance inside
        return 1.0
    found = model.predict_proba(reduced)
    return float(found[np.arange(len(codes)), codes].mean())
