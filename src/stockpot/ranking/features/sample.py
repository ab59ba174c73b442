"""Which examples are looked at: one fixed order whose every beginning is a fair sample."""

from __future__ import annotations

import numpy as np

from stockpot.tasks import Task, named_generator
from stockpot.tasks.task import Array

_BINS = 10
_FIRST = 2


def sample_order(task: Task, rows: Array | None = None, *, seed: int = 0) -> Array:
    """``rows`` of ``task`` (default: all) in an order whose every prefix is stratified.

    Strata are class and domain; numbers are cut into ten bins of equal size. Two examples of every
    class come first, so that scores which need two per class are defined early; after them every
    stratum is spread evenly. A longer sample therefore contains the shorter ones, and what was
    computed for those is kept.

    Returns int64 (len(rows),). Depends on the seed, the labels and the domains alone.
    """
    rows = np.arange(len(task)) if rows is None else np.asarray(rows)
    groups = strata(task, rows)
    classes = groups if task.kind == "regression" else task.labels[rows]
    draw = named_generator(seed, "sample", task.fingerprint)
    shuffled = draw.permutation(len(rows))
    place = np.empty(len(rows))
    for group in np.unique(groups):
        own = shuffled[groups[shuffled] == group]
        place[own] = (np.arange(len(own)) + draw.random()) / len(own)
    order = np.argsort(place, kind="stable")
    turn = np.full(len(rows), _FIRST)
    seen: dict[int, int] = {}
    for index in order:
        count = seen.setdefault(int(classes[index]), 0)
        turn[index] = min(count, _FIRST)
        seen[int(classes[index])] = count + 1
    order = order[np.argsort(turn[order], kind="stable")]
    return rows[order].astype(np.int64)


def strata(task: Task, rows: Array) -> Array:
    """A whole number for every row; equal where class (or bin of the value) and domain are."""
    if task.kind == "classification":
        labels = task.labels[rows]
    else:
        ranks = np.argsort(np.argsort(task.labels[rows], kind="stable"), kind="stable")
        labels = ranks * _BINS // max(1, len(rows))
    found: Array = labels.astype(np.int64) * len(task.domains) + task.domain_ids[rows]
    return found
