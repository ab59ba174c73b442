"""Methods that choose entries, from TIES to EMR."""

from __future__ import annotations

import numpy as np

from stockpot.merging.random import uniform

from .common import State, count_of, flat, nth_largest, per_tensor, unflat


def agree(taus, weights, consensus, tie=1.0):
    """Paper's elect and disjoint merge, entry by entry."""
    taus = np.array([w * tau for w, tau in zip(weights, taus, strict=True)])
    if consensus == "sum":
        return taus.sum(axis=0)
    sign = np.sign(taus.sum(axis=0))
    sign = np.where(sign == 0, tie, sign)
    chosen = np.sign(taus) == sign
    total = np.where(chosen, taus, 0).sum(axis=0)
    if consensus == "agreeing_sum":
        return total
    share = np.where(chosen, np.array(weights).reshape(-1, *[1] * sign.ndim), 0).sum(axis=0)
    return np.divide(total, share, out=np.zeros_like(total), where=share > 0)


def ties(base: State, models: list[State], *, density, weights, scale, scope, consensus, sign_tie):
    if scope == "model":
        parts = {"all": (flat(base), [flat(model) for model in models])}
    else:
        parts = {
            name: (base[name].ravel(), [model[name].ravel() for model in models]) for name in base
        }
    merged = {}
    for name, (theta_0, thetas) in parts.items():
        taus = []
        for theta, share in zip(thetas, density, strict=True):
            tau = theta - theta_0
            smallest = nth_largest(np.abs(tau), count_of(share, tau.size))
            taus.append(np.where(np.abs(tau) >= smallest, tau, 0))
        tie = 1.0
        if sign_tie == "majority":
            votes = np.sign(sum(w * tau for w, tau in zip(weights, taus, strict=True))).sum()
            tie = 1.0 if votes > 0 else -1.0
        merged[name] = theta_0 + scale * agree(taus, weights, consensus, tie)
    if scope == "model":
        return unflat(merged["all"], base)
    return {name: merged[name].reshape(base[name].shape) for name in base}


def dare(base: State, models: list[State], *, density, weights, scale, consensus, seed) -> State:
    merged = {}
    for name, theta_0 in base.items():
        taus = []
        for number, (model, p) in enumerate(zip(models, density, strict=True)):
            chance = uniform(seed, name, number, 0, theta_0.size).reshape(theta_0.shape)
            taus.append((model[name] - theta_0) * (chance < p) / p)
        merged[name] = theta_0 + scale * agree(taus, weights, consensus)
    return merged


def della(
    base: State, models: list[State], *, density, epsilon, weights, scale, consensus, seed
) -> State:
    merged = {}
    for name, theta_0 in base.items():
        taus = []
        for number, (model, p) in enumerate(zip(models, density, strict=True)):
            chance = uniform(seed, name, number, 0, theta_0.size).reshape(theta_0.shape)
            tau = np.asarray(model[name] - theta_0)
            rows = tau.reshape(len(tau), -1) if tau.ndim >= 2 else tau.reshape(1, -1)
            keep = np.empty_like(rows)
            for row, values in enumerate(rows):
                order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
                for rank, place in enumerate(order):
                    keep[row, place] = p + epsilon * (0.5 - rank / len(values))
            keep = np.asarray(np.clip(keep, 0, 1)).reshape(tau.shape)
            factor = np.divide(1, keep, out=np.zeros_like(keep), where=keep > 0)
            # Chances are compared in the precision of the blocks, so that both drop the same.
            taus.append(tau * (chance < keep.astype(np.float32)) * factor)
        merged[name] = theta_0 + scale * agree(taus, weights, consensus)
    return merged


def breadcrumbs(theta_0, thetas, *, density, gamma, weights, scale, scope, consensus):
    taus = []
    for theta, share, outliers in zip(thetas, density, gamma, strict=True):
        tau = theta - theta_0
        by_row = scope == "row" and tau.ndim >= 2
        rows = tau.reshape(len(tau), -1) if by_row else tau.reshape(1, -1)
        kept = np.zeros_like(rows)
        for row, values in enumerate(rows):
            size = len(values)
            first = min(int(np.floor(outliers * size + 0.5)), size - 1)
            last = min(first + count_of(share, size), size)
            high, low = (nth_largest(np.abs(values), rank) for rank in (first + 1, last))
            inside = (np.abs(values) <= high) & (np.abs(values) >= low)
            kept[row] = np.where(inside, values, 0)
        taus.append(kept.reshape(tau.shape))
    return theta_0 + scale * agree(taus, weights, consensus)


def magmax(theta_0, thetas, *, scale):
    taus = np.array([theta - theta_0 for theta in thetas])
    # A tie between +x and -x goes to +x: compare (|tau|, tau).
    order = np.lexsort((taus, np.abs(taus)), axis=0)[-1]
    return theta_0 + scale * np.take_along_axis(taus, order[None], axis=0)[0]


def masks(taus, cut):
    total = sum(taus)
    return [abs(tau) > c * abs(total - tau) for tau, c in zip(taus, cut, strict=True)]


def consensus(theta_0, thetas, *, cut, minimum, scale):
    taus = [theta - theta_0 for theta in thetas]
    votes = np.sum(masks(taus, cut), axis=0)
    return theta_0 + scale * np.where(votes >= minimum, sum(taus), 0)


def sce(theta_0, thetas, *, density, scale):
    taus = np.array([theta - theta_0 for theta in thetas])
    variance = taus.var(axis=0)
    smallest = nth_largest(variance.ravel(), count_of(density, variance.size))
    selected = variance >= smallest * (1 - 1e-9)  # equal ones differ by rounding
    taus = np.where(selected, taus, 0)
    squares = (taus**2).reshape(len(taus), -1).sum(axis=1)
    shares = squares / squares.sum() if squares.sum() > 0 else np.full(len(taus), 1 / len(taus))
    sign = np.where(taus.sum(axis=0) >= 0, 1, -1)
    shares = shares.reshape(-1, *[1] * theta_0.ndim) * (np.sign(taus) == sign)
    total, divisor = (shares * taus).sum(axis=0), shares.sum(axis=0)
    return theta_0 + scale * np.divide(total, divisor, out=np.zeros_like(total), where=divisor > 0)


def pcb(base: State, models: list[State], *, density, clip, scale, scope) -> State:
    if scope == "model":
        merged = balanced(flat(base), [flat(m) for m in models], density, clip, scale)
        return unflat(merged, base)
    return {
        name: balanced(
            base[name].ravel(), [m[name].ravel() for m in models], density, clip, scale
        ).reshape(base[name].shape)
        for name in base
    }


def balanced(theta_0, thetas, density, clip, scale):
    taus = [theta - theta_0 for theta in thetas]
    size, k = theta_0.size, len(thetas)
    total, weight = np.zeros(size), np.zeros(size)
    for tau in taus:
        ordered = np.sort(np.abs(tau))
        outliers = min(int(clip * size), (size - 1) // 2)
        low, high = ordered[outliers], ordered[size - 1 - outliers]
        clipped = np.clip(np.abs(tau), low, high)
        intra = np.exp(
            k * ((clipped - low) / (high - low) if high > low else 0 * clipped + low - low) ** 2
        )
        balance = np.maximum(intra * np.tanh(tau * sum(taus)), 0)
        threshold, largest = nth_largest(balance, count_of(density, size)), balance.max()
        if largest > threshold:
            share = np.maximum(balance - threshold, 0) / (largest - threshold)
            total += share * np.sign(tau) * clipped
            weight += share
    return theta_0 + scale * np.divide(total, weight, out=np.zeros(size), where=weight > 0)


def emr(base: State, models: list[State], *, rescale) -> State:
    """The unified model, and for each task its unpacked model under ``task.NAME``."""
    taus = [{name: model[name] - base[name] for name in base} for model in models]
    signs, unified, merged = {}, {}, {}
    for name in base:
        stacked = np.array([tau[name] for tau in taus])
        signs[name] = np.where(stacked.sum(axis=0) > 0, 1.0, -1.0)
        aligned = np.where(np.sign(stacked) == signs[name], np.abs(stacked), 0)
        unified[name] = signs[name] * aligned.max(axis=0)
        merged[name] = base[name] + unified[name]
    reduce = np.sum if rescale == "sums" else np.mean
    for task, tau in enumerate(taus):
        masked = {name: unified[name] * (tau[name] * signs[name] > 0) for name in base}
        own = sum(reduce(np.abs(tau[name])) for name in base)
        size = sum(reduce(np.abs(masked[name])) for name in base)
        for name in base:
            merged[f"{task}.{name}"] = base[name] + own / size * masked[name]
    return merged


def tall(base: State, models: list[State], *, cut) -> State:
    merged = {}
    for name, theta_0 in base.items():
        taus = [model[name] - theta_0 for model in models]
        merged[name] = theta_0 + sum(taus)
        for task, mask in enumerate(masks(taus, cut)):
            merged[f"{task}.{name}"] = theta_0 + mask * sum(taus)
    return merged


def ram(base, models, *, epsilon):
    return ram_plus(base, models, epsilon=epsilon, rescale=0.0, limit=0.0, scope="model")


def ram_plus(base, models, *, epsilon, rescale, limit, scope):
    masks = [{n: np.abs(m[n] - base[n]) > epsilon for n in base} for m in models]
    count = {n: sum(mask[n].astype(int) for mask in masks) for n in base}
    own = {n: np.zeros_like(base[n]) for n in base}
    together = {n: np.zeros_like(base[n]) for n in base}
    for model, mask in zip(models, masks, strict=True):
        alone = {n: int((mask[n] & (count[n] == 1)).sum()) for n in base}
        shared = {n: int((mask[n] & (count[n] > 1)).sum()) for n in base}
        for n in base:
            a, b = (
                (alone[n], shared[n])
                if scope == "tensor"
                else (sum(alone.values()), sum(shared.values()))
            )
            tau = np.where(mask[n], model[n] - base[n], 0)
            factor = 1 + rescale * min(b / max(a, 1), limit)
            own[n] += np.where(count[n] == 1, factor * tau, 0)
            together[n] += np.where(count[n] > 1, tau, 0)
    return {n: base[n] + own[n] + together[n] / np.maximum(count[n], 1) for n in base}


REFERENCES = {
    "ram": ram,
    "ram_plus": ram_plus,
    "ties": ties,
    "dare": dare,
    "della": della,
    "breadcrumbs": per_tensor(breadcrumbs),
    "magmax": per_tensor(magmax),
    "consensus": per_tensor(consensus),
    "sce": per_tensor(sce),
    "pcb": pcb,
    "emr": emr,
    "tall": tall,
}
