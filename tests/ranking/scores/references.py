"""Each score in slow, plain float64, as its paper writes it. No code of the package is used."""

from __future__ import annotations

import itertools

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special
import scipy.stats
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import average_precision_score
from sklearn.mixture import GaussianMixture


def columns_of(evidence):
    y = np.asarray(evidence.targets)
    if evidence.kind == "classification":
        return (y[:, None] == np.unique(y)).astype(float)
    return y.astype(float).reshape(len(y), -1)


def rows_of(evidence):
    return np.asarray(evidence.features, dtype=float)


def coded(evidence):
    return np.unique(evidence.targets, return_inverse=True)[1]


def softmax(x):
    return np.exp(x - scipy.special.logsumexp(x, axis=1, keepdims=True))


def posterior_of_source(evidence):
    return softmax(np.asarray(evidence.logits, dtype=float))


# -------------------- linear models
def logme_dense(x, y):
    """LogME of one column with dense solves, in the width of the features."""
    n, d = x.shape
    a = b = 1.0
    for _ in range(11):
        t = a / b
        inverse = np.linalg.inv(x.T @ x + t * np.eye(d))
        m = inverse @ (x.T @ y)
        freedom = d - t * np.trace(inverse)
        a = freedom / (m @ m + 1e-5)
        b = (n - freedom) / (np.sum((y - x @ m) ** 2) + 1e-5)
        if abs(a / b - t) / t <= 1e-3:
            break
    _, logs = np.linalg.slogdet(a * np.eye(d) + b * x.T @ x)
    rest = np.sum((y - x @ m) ** 2)
    evidence = d / 2 * np.log(a) + n / 2 * np.log(b) - logs / 2 - b * rest / 2 - a * (m @ m) / 2
    return (evidence - n / 2 * np.log(2 * np.pi)) / n


def logme(evidence):
    return np.mean([logme_dense(rows_of(evidence), y) for y in columns_of(evidence).T])


def between(x, y):
    g = np.empty_like(x)
    for c in np.unique(y):
        g[y == c] = x[y == c].mean(axis=0)
    return np.cov(g, rowvar=False)


def hscore(evidence):
    x = rows_of(evidence)
    return np.trace(
        np.linalg.pinv(np.cov(x, rowvar=False), rcond=1e-10) @ between(x, coded(evidence))
    )


def reg_hscore(evidence):
    x = rows_of(evidence)
    x = x - x.mean(axis=0)
    fit = LedoitWolf().fit(x)
    shrunk = np.linalg.inv(fit.covariance_)
    return np.trace(shrunk @ ((1 - fit.shrinkage_) * between(x, coded(evidence))))


def coding_rate(x, eps=1e-4):
    n, d = x.shape
    return 0.5 * np.linalg.slogdet(np.eye(d) + x.T @ x / (n * eps))[1]


def transrate(evidence):
    x = rows_of(evidence)
    x = x - x.mean(axis=0)
    if evidence.kind == "classification":
        labels = [coded(evidence)]
    else:
        labels = []
        for column in columns_of(evidence).T:
            cuts = [np.quantile(column, q / 10) for q in range(1, 10)]
            labels.append(np.array([sum(value >= cut for cut in cuts) for value in column]))
    inner = [np.mean([coding_rate(x[y == c]) for c in np.unique(y)]) for y in labels]
    return coding_rate(x) - np.mean(inner)


# -------------------- discriminants
def fisher(x, y, shrinkage=None):
    """Posterior by the generalised eigenproblem, and the shrinkage."""
    classes = np.unique(y)
    priors = np.array([np.mean(y == c) for c in classes])
    means = np.array([x[y == c].mean(axis=0) for c in classes])
    within = sum(
        p * np.cov(x[y == c].T, bias=True).reshape(x.shape[1], -1)
        for p, c in zip(priors, classes, strict=True)
    )
    if shrinkage is None:
        v = within.sum(axis=1)
        for _ in range(3):
            w = within @ v / np.linalg.norm(within @ v)
            v = within @ w / np.linalg.norm(within @ w)
        shrinkage = max(np.exp(-5 * (v @ within @ w)), 1e-10)
    d = x.shape[1]

    def shrunk(matrix):
        return (1 - shrinkage) * matrix + shrinkage * np.trace(matrix) / d * np.eye(d)

    total = shrunk(np.cov(x.T, bias=True))
    within = shrunk(within)
    _, vectors = scipy.linalg.eigh(total - within, within)
    weights = means @ vectors @ vectors.T
    bias = -0.5 * np.diag(means @ weights.T) + np.log(priors)
    return softmax(x @ weights.T + bias), shrinkage


def sfda(evidence):
    x, y = rows_of(evidence), coded(evidence)
    n = len(y)
    first, shrinkage = fisher(x, y)
    share = softmax(first)[np.arange(n), y][:, None]
    means = np.array([x[y == c].mean(axis=0) for c in np.unique(y)])
    others = np.array([np.delete(means, c, axis=0).mean(axis=0) for c in range(len(means))])
    second, _ = fisher(share * x + (1 - share) * others[y], y, shrinkage)
    return second[np.arange(n), y].mean()


def lowest_energy(x):
    energy = np.sort(scipy.special.logsumexp(x, axis=1))
    return energy[: max(1, len(x) * 5 // 1000)].mean()


def etran(evidence):
    x = rows_of(evidence)
    if evidence.kind == "regression":
        y = columns_of(evidence)
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        return -np.mean((x @ (vt.T @ np.diag(1 / s) @ u.T @ y) - y) ** 2)
    y = coded(evidence)
    return fisher(x, y)[0][np.arange(len(y)), y].mean()


def components(x, k):
    rank = np.linalg.matrix_rank(x - x.mean(axis=0))
    return PCA(min(k, rank), svd_solver="full").fit_transform(x)


def gbc(evidence):
    y = coded(evidence)
    z = components(rows_of(evidence), 64)
    total = 0.0
    for c, d in itertools.permutations(np.unique(y), 2):
        first, second = z[y == c], z[y == d]
        s1, s2 = (np.maximum(part.var(axis=0), 1e-4).mean() for part in (first, second))
        s = (s1 + s2) / 2
        apart = np.sum((first.mean(axis=0) - second.mean(axis=0)) ** 2) / (8 * s)
        # log of |S| / sqrt(|S1| |S2|) of spherical covariances in as many dimensions as z has.
        total += np.exp(-apart - 0.5 * z.shape[1] * np.log(s / np.sqrt(s1 * s2)))
    return -total


def ncti(evidence):
    y = coded(evidence)
    z = components(rows_of(evidence), 64)
    amount = max(np.exp(-z.var(axis=0, ddof=1)[:32].sum()), 1e-10)
    if amount == 1e-10:
        fit = LinearDiscriminantAnalysis(solver="svd").fit(z, y)
    else:
        fit = LinearDiscriminantAnalysis(solver="eigen", shrinkage=amount).fit(z, y)
    return fit.predict_proba(z)[np.arange(len(y)), y].mean()


# -------------------- source heads
def leep_of(p, y):
    n = len(y)
    joint = np.array([p[y == c].sum(axis=0) / n for c in np.unique(y)])
    conditional = joint / joint.sum(axis=0)
    return np.mean([np.log(conditional[y[i]] @ p[i]) for i in range(n)])


def leep(evidence):
    return leep_of(posterior_of_source(evidence), coded(evidence))


def entropy_given(first, second):
    """H(first | second) of two labellings."""
    total = 0.0
    for z in np.unique(second):
        share = np.mean(second == z)
        for c in np.unique(first[second == z]):
            p = np.mean(first[second == z] == c)
            total -= share * p * np.log(p)
    return total


def nce(evidence):
    return -entropy_given(coded(evidence), np.asarray(evidence.logits).argmax(axis=1))


def variational(evidence, gamma):
    p = posterior_of_source(evidence)
    y = columns_of(evidence)
    n, classes = y.shape
    prior = y.mean(axis=0)[:, None] + 1e-10
    q, log_p = p, np.log(p + 1e-10)
    for _ in range(10):
        counts = prior + y.T @ q
        scores = log_p + y @ scipy.special.digamma(counts)
        if not gamma:
            scores = scores - scipy.special.digamma(counts.sum(axis=0))
        rate = p @ counts.sum(axis=0)
        log_q = scores - scipy.special.logsumexp(scores, axis=1, keepdims=True)
        q = np.exp(log_q)
    divergence = np.sum(q * (log_q - log_p))
    if gamma:
        g = scipy.special.gammaln
        bound = p.shape[1] * g(prior).sum() - g(counts).sum() + divergence
        return -((bound + np.sum(np.log(rate) - 1)) / (n * classes) + 1)
    g = scipy.special.gammaln
    before = g(prior.sum()) - g(prior).sum()
    after = g(counts.sum(axis=0)) - g(counts).sum(axis=0)
    return (p.shape[1] * before - after.sum() - divergence) / (n * classes)


def pactran(evidence):
    x, y = rows_of(evidence), columns_of(evidence)
    x = x - x.mean(axis=0)
    n, d = x.shape
    c = y.shape[1]

    def logits(theta):
        return x @ theta[: d * c].reshape(d, c) + theta[d * c :]

    def loss(theta):
        z = logits(theta)
        fit = np.mean(scipy.special.logsumexp(z, axis=1) - np.sum(z * y, axis=1))
        return fit + np.sum(theta[: d * c] ** 2) / (2 * n)

    def slope(theta):
        g = (softmax(logits(theta)) - y) / n
        return np.concatenate([(x.T @ g).ravel() + theta[: d * c] / n, g.sum(axis=0)])

    best = scipy.optimize.minimize(
        loss, np.zeros((d + 1) * c), jac=slope, method="BFGS", options={"gtol": 1e-9}
    )
    p = softmax(logits(best.x))
    curvature = np.sum((x**2).T @ (p - p**2) + 1 / n) + np.sum(p - p**2)
    return -(best.fun + 0.5 * d * c / n * (100 / d) * np.log(curvature * n / (d * c) + 1e-10))


# -------------------- neighbours
def parc(evidence):
    z = components(rows_of(evidence), 32)
    labels = columns_of(evidence)
    keep = labels.std(axis=1) > 0
    z, labels = z[keep], labels[keep]
    z = (z - z.mean(axis=0)) / z.std(axis=0)
    upper = np.triu_indices(len(z), 1)
    first, second = 1 - np.corrcoef(z), 1 - np.corrcoef(labels)
    return 100 * scipy.stats.spearmanr(first[upper].round(12), second[upper].round(12)).statistic


def all_distances(x):
    return np.sqrt(((x[:, None] - x) ** 2).sum(axis=-1))


def interclass(evidence):
    d, y = all_distances(rows_of(evidence)), coded(evidence)
    pairs = itertools.combinations(np.unique(y), 2)
    return np.mean([d[np.ix_(y == a, y == b)].mean() for a, b in pairs])


def concept_variance(evidence):
    x, y = rows_of(evidence), coded(evidence)
    x = (x - x.min(axis=0)) / np.ptp(x, axis=0)
    d = all_distances(x)
    rest = np.sqrt(x.shape[1]) - d
    rest[rest <= 0] = 1e-9
    w = 2.0 ** (-2 * d / rest)
    np.fill_diagonal(w, 0)
    return -np.mean((w * (y[:, None] != y)).sum(axis=1) / w.sum(axis=1))


def merit(evidence, predicted):
    y = columns_of(evidence)
    if evidence.kind == "classification":
        return np.mean(predicted.argmax(axis=1) == y.argmax(axis=1))
    if evidence.kind == "multilabel":
        return average_precision_score(y, predicted, average="macro")
    return np.mean(1 - ((predicted - y) ** 2).mean(axis=0) / y.var(axis=0))


def knn(evidence):
    x, y = rows_of(evidence), columns_of(evidence)
    x = x - x.mean(axis=0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    predicted = np.empty_like(y)
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i and not same_group(evidence, i, j)]
        others.sort(key=lambda j: -(x[i] @ x[j]))
        near = others[:5]
        # Ties of votes go to the nearer rows.
        tie = 1e-6 if evidence.kind == "classification" else 0.0
        w = np.array([1 + tie * (x[i] @ x[j]) for j in near])
        predicted[i] = w @ y[near] / w.sum()
    return merit(evidence, predicted)


def same_group(evidence, i, j):
    return evidence.groups is not None and evidence.groups[i] == evidence.groups[j]


def loo_ridge(evidence):
    """Really leaving rows out, one fit each."""
    x, y = rows_of(evidence), columns_of(evidence)
    n = len(x)
    singular = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    mean_square = np.mean(singular[singular > 1e-9] ** 2)
    best = None
    for share in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0):
        predicted = np.empty_like(y)
        for i in range(n):
            keep = [j for j in range(n) if j != i and not same_group(evidence, i, j)]
            mx, my = x[keep].mean(axis=0), y[keep].mean(axis=0)
            inner = x[keep] - mx
            w = np.linalg.solve(
                inner.T @ inner + share * mean_square * np.eye(x.shape[1]),
                inner.T @ (y[keep] - my),
            )
            predicted[i] = (x[i] - mx) @ w + my
        loss = np.mean((predicted - y) ** 2)
        if best is None or loss < best[0]:
            best = loss, merit(evidence, predicted)
    return best[1]


# -------------------- others
def nleep(evidence):
    x, y = rows_of(evidence), coded(evidence)
    order = np.argsort(y, kind="stable")
    z = PCA(0.8, svd_solver="full").fit_transform(x[order])
    mixture = GaussianMixture(5 * len(np.unique(y)), random_state=evidence.seed).fit(z)
    return leep_of(mixture.predict_proba(z), y[order])


REFERENCES = {
    "logme": logme,
    "hscore": hscore,
    "reg_hscore": reg_hscore,
    "transrate": transrate,
    "sfda": sfda,
    "gbc": gbc,
    "etran": etran,
    "ncti": ncti,
    "leep": leep,
    "nce": nce,
    "pactran_dirichlet": lambda evidence: variational(evidence, gamma=False),
    "pactran_gamma": lambda evidence: variational(evidence, gamma=True),
    "pactran": pactran,
    "nleep": nleep,
    "parc": parc,
    "int": interclass,
    "concept_variance": concept_variance,
    "knn": knn,
    "loo_ridge": loo_ridge,
}
