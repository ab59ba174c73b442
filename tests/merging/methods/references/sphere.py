"""SLERP, NuSLERP and the Karcher mean, with the vectors themselves."""

from __future__ import annotations

import numpy as np

from .common import per_tensor


def angle_between(a: np.ndarray, b: np.ndarray) -> float:
    """Kahan's formula: accurate for small angles."""
    x, y = a / np.linalg.norm(a), b / np.linalg.norm(b)
    return 2 * np.arctan2(np.linalg.norm(x - y), np.linalg.norm(x + y))


def on_circle(a, b, omega, t):
    if omega == 0:
        return (1 - t) * a + t * b
    return (np.sin((1 - t) * omega) * a + np.sin(t * omega) * b) / np.sin(omega)


def slerp(theta_0, thetas, *, t):
    a, b = thetas
    if not a.any() or not b.any():
        return (1 - t) * a + t * b
    return on_circle(a, b, angle_between(a.ravel(), b.ravel()), t)


def of_vectors(a, b, t):
    if not a.any() or not b.any():
        return (1 - t) * a + t * b
    return on_circle(a, b, angle_between(a, b), t)


def nuslerp(theta_0, thetas, *, weights, scope):
    t = weights[1] / sum(weights)
    a, b = thetas if theta_0 is None else [theta - theta_0 for theta in thetas]
    if scope == "row" and a.ndim >= 2:
        merged = np.array(
            [
                of_vectors(x.ravel(), y.ravel(), t).reshape(x.shape)
                for x, y in zip(a, b, strict=True)
            ]
        )
    else:
        merged = of_vectors(a.ravel(), b.ravel(), t).reshape(a.shape)
    return merged if theta_0 is None else theta_0 + merged


def karcher(theta_0, thetas, *, weights, steps):
    shares = np.array(weights) / sum(weights)
    vectors = [theta.ravel() for theta in thetas]
    norms = [np.linalg.norm(vector) for vector in vectors]
    if not all(norms):
        return sum(s * theta for s, theta in zip(shares, thetas, strict=True))
    units = [vector / norm for vector, norm in zip(vectors, norms, strict=True)]
    mean = sum(s * unit for s, unit in zip(shares, units, strict=True))
    mean = mean / np.linalg.norm(mean)
    for _ in range(200):
        tangent = np.zeros_like(mean)
        for share, unit in zip(shares, units, strict=True):
            omega = angle_between(unit, mean)
            along = unit - np.cos(omega) * mean
            tangent += share * (omega / np.sin(omega) if omega > 1e-7 else 1.0) * along
        length = np.linalg.norm(tangent)
        if length < 1e-15:
            break
        mean = np.cos(length) * mean + np.sin(length) * tangent / length
        mean /= np.linalg.norm(mean)
    return (mean * float(shares @ norms)).reshape(thetas[0].shape)


REFERENCES = {
    "slerp": per_tensor(slerp),
    "nuslerp": per_tensor(nuslerp),
    "karcher": per_tensor(karcher),
}
