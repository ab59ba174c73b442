"""PACTran: PAC-Bayes bounds on the error of a linear head, in three priors.

Gaussian (features): the least ``cross-entropy + |W|^2 / (2 l N)`` of a softmax head on centred
features, plus ``D C / (2 l N) s2 log(mean curvature l N)`` with l = 1 and s2 = 100 / D, the
settings of the authors' code. The loss is convex, so the optimum has no random start and the value
is the same every time; it runs on the row space where N < D.

Dirichlet and Gamma (posterior of the source head): variational bounds with a prior proportional to
class frequencies, ten rounds.

All three are bounds on an error; the value is minus that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

STRENGTH = 1.0
VARIANCE = 100.0
ROUNDS = 10
_TINY = 1e-10


def softmax_head(
    features: np.ndarray, codes: np.ndarray, classes: int, penalty: float
) -> tuple[float, np.ndarray]:
    """Least mean cross-entropy plus ``penalty |W|^2 / 2``; and the posterior there, (N, C).

    features: float64, shape (N, D). The bias is not penalised.
    """
    from scipy.optimize import minimize

    rows, size = features.shape
    index = np.arange(rows)

    def posterior(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights = theta.reshape(size + 1, classes)
        logits = features @ weights[:size] + weights[size]
        logits -= logits.max(axis=1, keepdims=True)
        exponential = np.exp(logits)
        total = exponential.sum(axis=1, keepdims=True)
        return logits - np.log(total), exponential / total

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        logs, probabilities = posterior(theta)
        inner = theta[: size * classes]
        value = -float(logs[index, codes].mean()) + 0.5 * penalty * float(inner @ inner)
        probabilities[index, codes] -= 1.0
        probabilities /= rows
        slope = np.empty((size + 1, classes))
        np.matmul(features.T, probabilities, out=slope[:size])
        slope[:size] += penalty * inner.reshape(size, classes)
        slope[size] = probabilities.sum(axis=0)
        return value, slope.ravel()

    found = minimize(
        loss,
        np.zeros((size + 1) * classes),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 500, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-8},
    )
    return float(found.fun), posterior(found.x)[1]


def _gaussian(work: Workspace) -> Value:
    rows, classes = work.rows, len(work.classes)
    size = work.features.shape[1]
    if work.wide:
        values, vectors = work.singular(work.rows)
        features = vectors * np.sqrt(values)
    else:
        features = work.centred()
    scale = STRENGTH * rows
    bound, posterior = softmax_head(features, work.codes, classes, 1.0 / scale)
    # Curvature of every weight and bias, summed: it needs the rows' lengths only.
    lengths = np.einsum("ij,ij->i", features, features) + 1.0
    spread = (posterior - posterior * posterior).sum(axis=1)
    curvature = float(lengths @ spread) + size * classes / scale
    count = size * classes
    log = float(np.log(curvature * scale / count + _TINY))
    value = bound + 0.5 * count / scale * (VARIANCE / size) * log
    return Value(-value, {"bound_without_curvature": bound})


def _prior(work: Workspace) -> np.ndarray:
    return (work.counts / work.rows)[:, None] + _TINY


def _assign(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.special import logsumexp

    logs = scores - logsumexp(scores, axis=1, keepdims=True)
    return logs, np.exp(logs)


def _dirichlet(work: Workspace) -> Value:
    from scipy.special import digamma, gammaln

    prior = _prior(work)
    soft = work.probabilities
    logs = np.log(soft + _TINY)
    for _ in range(ROUNDS):
        counts = prior + np.add.reduceat(soft, work.starts, axis=0)
        log_soft, soft = _assign(
            logs + digamma(counts)[work.codes] - digamma(counts.sum(axis=0))[None, :]
        )
    before = gammaln(prior.sum()) - gammaln(prior).sum()
    after = gammaln(counts.sum(axis=0)) - gammaln(counts).sum(axis=0)
    bound = np.sum(before - after - np.sum(soft * (log_soft - logs), axis=0))
    return Value(float(bound) / (work.rows * len(work.classes)))


def _gamma(work: Workspace) -> Value:
    from scipy.special import digamma, gammaln

    prior = _prior(work)
    probabilities = work.probabilities
    soft = probabilities
    logs = np.log(probabilities + _TINY)
    for _ in range(ROUNDS):
        counts = prior + np.add.reduceat(soft, work.starts, axis=0)
        rate = probabilities @ counts.sum(axis=0)
        log_soft, soft = _assign(logs + digamma(counts)[work.codes])
    classes, sources = len(work.classes), probabilities.shape[1]
    bound = np.sum(gammaln(prior)) * sources - np.sum(gammaln(counts))
    bound += np.sum(soft * (log_soft - logs)) + np.sum(np.log(rate) - 1.0)
    return Value(-(float(bound) / (work.rows * classes) + 1.0))


_PAPER = "Ding et al. 2022, arXiv 2203.05126"
SCORE = Score(
    name="pactran",
    title="PACTran-Gaussian",
    formula="-(min_W CE + |W|^2 / 2N + D C s2 log(mean curvature N) / 2N)",
    source=f"{_PAPER}; the authors' compute_metrics.py, s2 = 100 / D",
    when="Minutes are affordable; rows per class are few.",
    instead=("logme", "reg_hscore"),
    function=_gaussian,
    cheap=False,
)
DIRICHLET = Score(
    name="pactran_dirichlet",
    title="PACTran-Dirichlet",
    needs=("logits",),
    formula="evidence bound of classes given source classes, Dirichlet prior",
    source=f"{_PAPER}; the authors' compute_metrics.py",
    when="As LEEP, with few rows a class.",
    instead=("nleep", "logme"),
    function=_dirichlet,
    cheap=False,
)
GAMMA = Score(
    name="pactran_gamma",
    title="PACTran-Gamma",
    needs=("logits",),
    formula="evidence bound of classes given source classes, Gamma prior",
    source=f"{_PAPER}; the authors' compute_metrics.py",
    when="As LEEP, with few rows a class.",
    instead=("nleep", "logme"),
    function=_gamma,
    cheap=False,
)
