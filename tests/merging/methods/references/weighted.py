"""Weighted sums: linear, task arithmetic, Fisher, RegMean, LM-Cocktail, LiNeS, Model Stock."""

from __future__ import annotations

import itertools

import numpy as np

from .common import State, flat, per_tensor


def linear(theta_0, thetas, *, weights, normalize):
    total = sum(w * theta for w, theta in zip(weights, thetas, strict=True))
    return total / sum(weights) if normalize else total


def keep_zeros(theta_0, thetas, *, zeros, weights):
    pruned = [theta == 0 for theta in thetas]
    removed = {"all": np.all, "any": np.any, "first": lambda m, axis: m[0]}[zeros](pruned, axis=0)
    return np.where(removed, 0, linear(theta_0, thetas, weights=weights, normalize=True))


def task_arithmetic(theta_0, thetas, *, scale, weights):
    return theta_0 + scale * sum(w * (t - theta_0) for w, t in zip(weights, thetas, strict=True))


def stock_ratio(taus, average):
    cosines = [
        float(a @ b / np.sqrt((a @ a) * (b @ b))) if a.any() and b.any() else 0.0
        for a, b in itertools.combinations(taus, 2)
    ]
    if average == "cosine":
        cosine = float(np.mean(cosines))
    else:
        cosine = float(np.cos(np.mean(np.arccos(np.clip(cosines, -1, 1)))))
    k = len(taus)
    return k * cosine / (1 + (k - 1) * cosine) if cosine > 0 else 0.0


def stock(base: State, models: list[State], *, granularity, average, bound) -> State:
    assert bound
    if granularity == "global":
        ratio = stock_ratio([flat(model) - flat(base) for model in models], average)
    merged = {}
    for name, theta_0 in base.items():
        taus = [model[name] - theta_0 for model in models]
        if granularity == "tensor":
            ratio = stock_ratio([tau.ravel() for tau in taus], average)
        elif granularity == "filter" and theta_0.ndim >= 2:
            rows = [
                stock_ratio([tau[row].ravel() for tau in taus], average)
                for row in range(len(theta_0))
            ]
            ratio = np.array(rows).reshape(-1, *[1] * (theta_0.ndim - 1))
        elif granularity == "filter":
            ratio = stock_ratio([tau.ravel() for tau in taus], average)
        merged[name] = theta_0 + ratio * np.mean(taus, axis=0)
    return merged


def cocktail(theta_0, thetas, *, losses, temperature, base_share):
    weights = np.exp(-np.array(losses) / temperature)
    weights /= weights.sum()
    mixed = sum(w * theta for w, theta in zip(weights, thetas, strict=True))
    return mixed if theta_0 is None else base_share * theta_0 + (1 - base_share) * mixed


def lines(base: State, models: list[State], *, alpha, beta, weights) -> State:
    layers = {name: [int(part) for part in name.split(".") if part.isdigit()] for name in base}
    last = max(found[0] for found in layers.values() if found)
    merged = {}
    for name, theta_0 in base.items():
        depth = layers[name][0] / last if layers[name] else 0.0
        tau = sum(w * (model[name] - theta_0) for w, model in zip(weights, models, strict=True))
        # Without the rounding error of 0.3 + 0.7 / 2, which would decide results half way between.
        merged[name] = theta_0 + np.round(alpha + beta * depth, 12) * tau
    return merged


def fisher(base, models, *, weights, fisher):
    return {
        name: sum(w * f[name] * m[name] for w, f, m in zip(weights, fisher, models, strict=True))
        / sum(w * f[name] for w, f in zip(weights, fisher, strict=True))
        for name in models[0]
    }


def regmean(base, models, *, weights, shrink, ridge, gram):
    merged = {}
    for name in models[0]:
        if name not in gram[0]:
            parts = zip(weights, models, strict=True)
            merged[name] = sum(w * model[name] for w, model in parts) / sum(weights)
            continue
        left, right = 0.0, 0.0
        for w, model, grams in zip(weights, models, gram, strict=True):
            g = grams[name]
            g = shrink * g + (1 - shrink) * np.diag(np.diag(g))
            g = g + ridge * np.trace(g) / len(g) * np.eye(len(g))
            left = left + w * g
            right = right + w * g @ model[name].reshape(len(model[name]), -1).T
        merged[name] = (np.linalg.inv(left) @ right).T.reshape(models[0][name].shape)
    return merged


def adamerging(base, models, *, scale, coefficients):
    return {
        name: base[name]
        + sum(c[name] * (m[name] - base[name]) for c, m in zip(coefficients, models, strict=True))
        for name in base
    }


REFERENCES = {
    "keep_zeros": per_tensor(keep_zeros),
    "adamerging": adamerging,
    "linear": per_tensor(linear),
    "task_arithmetic": per_tensor(task_arithmetic),
    "stock": stock,
    "cocktail": per_tensor(cocktail),
    "lines": lines,
    "fisher": fisher,
    "regmean": regmean,
}
