"""TSV-M, Iso-C, Iso-CTS, WUDI, DOGE, ACE and MonoSoup on matrices (out, rest)."""

from __future__ import annotations

import numpy as np

from .common import count_of, nth_largest, per_tensor


def as_matrices(theta_0, thetas):
    if theta_0.ndim < 2:
        return None
    return [(theta - theta_0).reshape(len(theta), -1) for theta in thetas]


def mean_of(theta_0, thetas, scale):
    return theta_0 + scale * np.mean([theta - theta_0 for theta in thetas], axis=0)


def procrustes(matrix):
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    return u @ vt


def tsv(theta_0, thetas, *, scale):
    taus = as_matrices(theta_0, thetas)
    if taus is None:
        return mean_of(theta_0, thetas, scale)
    share = max(1, min(taus[0].shape) // len(taus))
    parts = [np.linalg.svd(tau, full_matrices=False) for tau in taus]
    left = procrustes(np.hstack([u[:, :share] for u, _, _ in parts]))
    right = procrustes(np.vstack([vt[:share] for _, _, vt in parts]))
    values = np.diag(np.concatenate([s[:share] for _, s, _ in parts]))
    return theta_0 + scale * (left @ values @ right).reshape(theta_0.shape)


def iso_c(theta_0, thetas, *, scale):
    taus = as_matrices(theta_0, thetas)
    if taus is None:
        return mean_of(theta_0, thetas, scale)
    u, s, vt = np.linalg.svd(sum(taus), full_matrices=False)
    return theta_0 + scale * (u @ np.diag(np.full_like(s, s.mean())) @ vt).reshape(theta_0.shape)


def iso_cts(theta_0, thetas, *, scale, common):
    taus = as_matrices(theta_0, thetas)
    if taus is None:
        return mean_of(theta_0, thetas, scale)
    rank, k = min(taus[0].shape), len(taus)
    share = min(int((rank - int(rank * common)) / k + 0.5), rank // k)
    shared = rank - share * k
    u, s, vt = np.linalg.svd(sum(taus), full_matrices=False)
    u, s, vt = u[:, :shared], s[:shared], vt[:shared]
    left, values, right = [u], [s], [vt]
    for tau in taus:
        a, b, c = np.linalg.svd(tau - u @ u.T @ tau, full_matrices=False)
        left.append(a[:, :share])
        values.append(b[:share])
        right.append(c[:share])
    spectrum = np.concatenate(values).mean() * np.eye(rank)
    merged = procrustes(np.hstack(left)) @ spectrum @ procrustes(np.vstack(right))
    return theta_0 + scale * merged.reshape(theta_0.shape)


def adam(gradient, x, rate, steps):
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t in range(1, steps + 1):
        g = gradient(x)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x = x - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return x


def wudi(theta_0, thetas, *, solver, steps, rate, scale):
    taus = as_matrices(theta_0, thetas)
    if taus is None:
        return mean_of(theta_0, thetas, scale)
    taus_used = [tau for tau in taus if tau.any()]

    def gradient(x):
        return sum(2 * (x - tau) @ tau.T @ tau / np.sum(tau**2) for tau in taus_used)

    start = sum(taus)
    if solver == "adam":
        merged = adam(gradient, start, rate, steps) if taus_used else start
    else:
        curvature = sum(tau.T @ tau / np.sum(tau**2) for tau in taus_used)
        pull = sum(tau @ tau.T @ tau / np.sum(tau**2) for tau in taus_used)
        merged = start + (pull - start @ curvature) @ np.linalg.pinv(curvature)
    return theta_0 + scale * merged.reshape(theta_0.shape)


def doge(theta_0, thetas, *, eta, density, subspace, steps, rate):
    shape = (len(theta_0), -1) if theta_0.ndim >= 2 else (1, -1)
    taus = [(theta - theta_0).reshape(shape) for theta in thetas]
    rates = [eta / np.linalg.norm(tau) if tau.any() else 0.0 for tau in taus]
    delta = np.zeros_like(taus[0])
    if theta_0.ndim >= 2 and any(tau.any() for tau in taus):
        rank = min(delta.shape)
        lead = [
            np.linalg.svd(tau, full_matrices=False)[0][:, : max(1, rank // len(taus))]
            for tau in taus
        ]
        basis = np.linalg.svd(np.hstack(lead), full_matrices=False)[0][
            :, : max(1, rank // subspace)
        ]

        def gradient(x):
            merged = sum(rate_i * (tau + x) for rate_i, tau in zip(rates, taus, strict=True))
            slope = np.zeros_like(x)
            for tau in taus:
                for row in range(len(x)):
                    error = tau[row] @ (merged[row] - tau[row])
                    slope[row] += 2 * error * sum(rates) * tau[row]
            return slope - basis @ basis.T @ slope

        delta = adam(gradient, delta, rate, steps)
    merged = np.zeros_like(delta)
    for tau, each in zip(taus, rates, strict=True):
        smallest = nth_largest(np.abs(tau).ravel(), count_of(density, tau.size))
        merged += each * np.where(np.abs(tau) >= smallest, tau + delta, 0)
    return theta_0 + merged.reshape(theta_0.shape)


def ace(theta_0, thetas, *, epsilon, threshold, rank_share, scale):
    taus = as_matrices(theta_0, thetas)
    if taus is None:
        return mean_of(theta_0, thetas, scale)
    taus = [tau for tau in taus if tau.any()]
    if not taus:
        return theta_0
    d = taus[0].shape[1]
    logs = [2 * np.log(np.linalg.norm(tau)) for tau in taus]
    differ = np.var(logs) > threshold * np.mean(logs) ** 2
    centered = [tau - np.outer(np.ones(len(tau)), tau.mean(axis=0)) for tau in taus]
    covariances = [c.T @ c for c in centered]
    traces = [np.trace(s) if differ and s.any() else 1.0 for s in covariances]
    covariances = [s / t for s, t in zip(covariances, traces, strict=True)]
    regular = [s + epsilon / t * np.eye(d) for s, t in zip(covariances, traces, strict=True)]
    prior = np.outer(np.ones(d), np.ones(d) @ sum(covariances) / d)
    if differ:
        prior /= np.mean([np.sum(tau**2) for tau in taus])
    merged = sum(c @ r for c, r in zip(centered, regular, strict=True)) @ np.linalg.inv(
        sum(regular) + prior
    )
    if differ:
        mean = sum(regular) / len(taus)
        left = sum(tau @ (s - mean) for tau, s in zip(taus, covariances, strict=True))
        u, s, vt = np.linalg.svd(merged + left)
        k = max(1, int(rank_share * len(s)))
        merged = merged + s[:k].mean() * u[:, :k] @ vt[:k]
    return theta_0 + scale * merged.reshape(theta_0.shape)


def monosoup_update(tau):
    """The paper's equations on one matrix: both parts from the triplets, one by one."""
    if not tau.any():
        return tau
    u, s, vt = np.linalg.svd(tau, full_matrices=False)
    p = s / s.sum()
    k = min(int(np.ceil(np.exp(-sum(x * np.log(x) for x in p if x > 0)) - 1e-9)), len(s))
    high = sum(s[i] * np.outer(u[:, i], vt[i]) for i in range(k))
    low = sum((s[i] * np.outer(u[:, i], vt[i]) for i in range(k, len(s))), np.zeros_like(tau))
    rho = (s[k] / s[0]) ** 2 if k < len(s) else 0.0
    cosine = np.sqrt(max(1 - np.sum(s[:k] ** 2) / np.sum(s**2), 0.0)) if k < len(s) else 0.0
    lambda_low = rho + (1 - rho) * cosine
    return (1 - lambda_low) * high + lambda_low * low


def monosoup(theta_0, thetas):
    (theta,) = thetas
    if theta_0.ndim < 2:
        return theta
    update = monosoup_update((theta - theta_0).reshape(len(theta), -1))
    return theta_0 + update.reshape(theta_0.shape)


REFERENCES = {
    "ace": per_tensor(ace),
    "monosoup": per_tensor(monosoup),
    "tsv": per_tensor(tsv),
    "iso_c": per_tensor(iso_c),
    "iso_cts": per_tensor(iso_cts),
    "wudi": per_tensor(wudi),
    "doge": per_tensor(doge),
}
