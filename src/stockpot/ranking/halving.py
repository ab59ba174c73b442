"""Recall and select: a coarse choice by history, then fine-tunings that stop early.

The two-phase framework of arXiv 2404.00069. *Recall*: models that did alike on known tasks form
clusters; only one model of each cluster is scored on the new task; a model is recalled by its mean
result so far, times what its cluster's score says. *Select*: all recalled models are trained a
little, the worse half goes, and so on until one is left (successive halving, Jamieson and Talwalkar
2016), where worse is told by the result that past training curves predict for the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stockpot.errors import InputError


@dataclass(frozen=True)
class Recalled:
    """``models`` best first with their ``scores``; ``clusters``: model -> representative."""

    models: tuple[str, ...]
    scores: dict[str, float]
    clusters: dict[str, str]


def recall(
    history: np.ndarray,
    models: Sequence[str],
    proxy: Callable[[str], float],
    *,
    clusters: int | None = None,
    keep: int = 10,
) -> Recalled:
    """Coarse recall from ``history`` (M, T): results in 0..1, nan where nothing is known.

    ``proxy(model)`` scores a model on the new task (LEEP, a log-likelihood, in the paper); it is
    called once per cluster, for the member with the best mean. Clusters are joined agglomeratively
    (average linkage) on the mean distance over tasks that both models know; models without any
    history stay alone. The score of a model is ``mean result * exp(proxy of its cluster)``; one
    without history takes the mean over all models as its result.

    Raises ``InputError`` where rows and models differ in number.
    """
    values = np.asarray(history, dtype=np.float64)
    if len(values) != len(models):
        raise InputError(f"the history has {len(values)} rows, there are {len(models)} models")
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    overall = float(sums.sum() / max(1, counts.sum()))
    means = np.where(counts > 0, sums / np.maximum(counts, 1), overall)
    groups = _clusters(values, known, clusters or max(1, round(np.sqrt(len(models)))))
    scores: dict[str, float] = {}
    chosen: dict[str, str] = {}
    for group in range(groups.max() + 1):
        members = np.flatnonzero(groups == group)
        head = models[int(members[means[members].argmax()])]
        likelihood = float(np.exp(proxy(head)))
        for member in members:
            scores[models[int(member)]] = float(means[member]) * likelihood
            chosen[models[int(member)]] = head
    order = sorted(models, key=lambda name: -scores[name])
    return Recalled(tuple(order[:keep]), scores, chosen)


def _clusters(values: np.ndarray, known: np.ndarray, count: int) -> np.ndarray:
    """Cluster number of each row; rows that share no column are as far apart as can be."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(values) == 1:
        return np.zeros(1, dtype=np.int64)
    filled = np.where(known, values, 0.0)
    both = known[:, None] & known[None]
    apart = np.where(both, np.abs(filled[:, None] - filled[None]), 0.0).sum(axis=2)
    shared = both.sum(axis=2)
    furthest = float(np.ptp(values[known])) if known.any() else 1.0
    distance = np.where(shared > 0, apart / np.maximum(shared, 1), 2 * furthest + 1.0)
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), method="average")
    alone = int((~known.any(axis=1)).sum())
    found = fcluster(tree, min(len(values), count + alone), criterion="maxclust")
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Rung:
    """One round: steps trained so far, what was measured, what it predicts, and who stays."""

    steps: int
    measured: dict[str, float]
    predicted: dict[str, float]
    kept: tuple[str, ...]


def successive_halving(
    models: Sequence[str],
    train: Callable[[Sequence[str], int], Mapping[str, float]],
    steps: int,
    *,
    rate: int = 2,
    least: int = 1,
    predict: Callable[[str, int, float], float] = lambda model, step, value: value,
    afford: Callable[[Sequence[str], int], bool] = lambda models, step: True,
) -> list[Rung]:
    """Train all, keep the best ``1 / rate`` by predicted final value, train those on, until done.

    ``train(models, until)`` trains each to step ``until``, going on from where it is, and measures.
    The last rung ends at ``steps``, with ``least`` models; before it each rung has ``1 / rate`` of
    the steps of the next. ``predict(model, step, value)`` turns an early value into the final one.
    ``afford(models, until)`` may end it early.
    """
    if rate < 2:
        raise InputError(f"successive halving: rate must be 2 or more, got {rate}")
    sizes = [len(models)]
    while sizes[-1] > least:
        sizes.append(max(least, sizes[-1] // rate))
    rungs: list[Rung] = []
    alive = list(models)
    for index, size in enumerate([*sizes[1:], sizes[-1]]):
        until = max(1, round(steps / rate ** (len(sizes) - 1 - index)))
        if rungs and until <= rungs[-1].steps:
            until = min(steps, rungs[-1].steps + 1)
        if not afford(alive, until):
            break
        measured = dict(train(alive, until))
        predicted = {name: predict(name, until, measured[name]) for name in alive}
        order = sorted(alive, key=lambda name: -predicted[name])
        alive = order[:size]
        rungs.append(Rung(until, measured, predicted, tuple(alive)))
        if until == steps:
            break
    return rungs
