"""NLEEP: LEEP with the clusters of a Gaussian mixture in place of the source classes.

Features are projected onto the principal components that hold 80 % of the variance; the mixture
has five components a class (fewer where there are too few rows for that). The mixture is fitted
with scikit-learn from the evidence's seed; another seed gives another value.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from stockpot.ranking.scores.leep import log_expected_prediction
from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

ENERGY = 0.8
PER_CLASS = 5


def _nleep(work: Workspace) -> Value:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    work.principal(1)
    values = work.spectrum(work.precisions[0]).eigenvalues[::-1]
    share = np.cumsum(values) / values.sum()
    size = int(np.searchsorted(share, ENERGY, side="right")) + 1
    scores = work.principal(size)
    # The mixture adds a fixed 1e-6 to its variances, which has to mean the same at every scale.
    scores = scores / np.sqrt(np.mean(np.var(scores, axis=0, dtype=np.float64)))
    components = min(PER_CLASS * len(work.classes), work.rows // 2)
    mixture = GaussianMixture(n_components=components, random_state=work.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        posterior = mixture.fit(scores).predict_proba(scores)
    value = log_expected_prediction(posterior, work.codes, work.starts)
    warning = None
    if components < PER_CLASS * len(work.classes):
        warning = f"{components} clusters for {len(work.classes)} classes: too few rows for more"
    elif not mixture.converged_:
        warning = f"the mixture had not converged after {mixture.max_iter} rounds"
    details = {"clusters": components, "components": scores.shape[1]}
    return Value(value, details, warning)


SCORE = Score(
    name="nleep",
    title="NLEEP",
    formula="LEEP with p(z | x) of a Gaussian mixture of 5 C components on PCA 80 %",
    source="Li et al. 2021, arXiv 2011.11200; NLEEP in SFDA's metrics.py, with the paper's log",
    when="Minutes are affordable: often the best of the feature scores on supervised models.",
    instead=("logme", "reg_hscore"),
    function=_nleep,
    cheap=False,
)
