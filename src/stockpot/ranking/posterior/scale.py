"""The scale on which the posterior works, and how results of a new task are put on it.

Within-task normal scores have a long lower tail of runs that diverged or landed in the wrong
column; what went wrong once says little about the next task. So the scale is the normal score with
its lower tail drawn in: a mean of ``max(z, c)`` over the cut points :data:`CUTS`, whose weights are
learnt from the history (:mod:`.learning`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stockpot.ranking.history.table import Array

# No cut, one standard deviation below the middle, half of one.
CUTS = (-9.0, -1.0, -0.5)


@dataclass(frozen=True)
class MonotoneScale:
    """``z -> sum_c weights[c] * max(z, CUTS[c])``; increasing, slope 1 above the highest cut."""

    weights: tuple[float, ...] = (0.3, 0.4, 0.3)

    def __call__(self, scores: Array) -> Array:
        """Normal scores of any shape onto the scale; nan stays nan."""
        parts = [w * np.maximum(scores, c) for w, c in zip(self.weights, CUTS, strict=True)]
        return np.asarray(sum(parts), dtype=np.float64)


def cut(index: int) -> MonotoneScale:
    """The scale with one cut point."""
    return MonotoneScale(tuple(float(i == index) for i in range(len(CUTS))))


def place_anchors(values: Array, scale: MonotoneScale, mean: float, spread: float) -> Array:
    """Put results ``values`` ``(k,)`` of a new task (higher is better) on the scale.

    The task's own mean and spread are unknown, so those of the same models' prior are taken:
    ``mean``, and ``spread``, the standard deviation to expect of such a sample. Between, half the
    weight is on ranks (a diverged run is only the last), half on the values, robustly standardised
    by their 16th, 50th and 84th percentiles. Equal values give ``mean``.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    ranks = _standard(scale(ndtri((rankdata(values) - 0.5) / len(values))))
    low, middle, high = np.percentile(values, [16.0, 50.0, 84.0])
    width = float(high - low) / 2
    if width <= 0:
        return np.asarray(mean + spread * ranks, dtype=np.float64)
    plain = _standard(np.clip((values - middle) / width, -1.5, 3.0))
    return np.asarray(mean + spread * (ranks + plain) / 2, dtype=np.float64)


def _standard(values: Array) -> Array:
    centred = values - values.mean()
    deviation = float(np.sqrt((centred**2).mean()))
    return np.asarray(centred / deviation if deviation > 1e-9 else centred * 0.0)


def metric_slope(placed: Array, values: Array) -> float:
    """Metric per unit of the scale: the line through all anchors; positive."""
    centred = placed - placed.mean()
    return max(float(centred @ values) / float(centred @ centred), 1e-12)


def metric_of(points: Array, placed: Array, values: Array) -> Array:
    """Metric at ``points`` of the scale, given anchors ``placed`` there with their ``values``.

    Linear between the anchors, which lie on an increasing curve by construction; beyond them the
    line through all of them goes on. Needs two different values.
    """
    order = np.argsort(placed, kind="stable")
    x, y = placed[order], np.sort(values)
    slope = metric_slope(placed, values)
    inside = np.interp(points, x, y)
    beyond = np.minimum(points - x[0], 0.0) + np.maximum(points - x[-1], 0.0)
    return np.asarray(inside + slope * beyond, dtype=np.float64)


def typical_metric(columns: Sequence[tuple[Array, Array]], points: Array) -> tuple[Array, Array]:
    """Metric at ``points`` ``(n,)`` as other tasks have it, and how far a new task may be off.

    ``columns``: per task the values and their places on the scale. Returns the mean over tasks and
    the half-width of a 90 % prediction interval for one more task (Student's t), ``(n,)`` each;
    infinite for a single task.
    """
    from scipy.stats import t

    curves = []
    for values, placed in columns:
        order = np.argsort(placed, kind="stable")
        curves.append(np.interp(points, placed[order], np.sort(values)))
    stacked, count = np.array(curves), len(curves)
    mean = stacked.mean(axis=0)
    if count < 2:
        return mean, np.full(len(points), np.inf)
    spread = stacked.std(axis=0, ddof=1) * np.sqrt(1.0 + 1.0 / count)
    return mean, np.asarray(t.ppf(0.95, count - 1) * spread, dtype=np.float64)


def typical_interval(
    columns: Sequence[tuple[Array, Array]], mean: Array, deviation: Array
) -> tuple[Array, Array, Array]:
    """Metric to expect at ``mean`` +- ``deviation`` ``(n,)`` of the scale, and ends of an interval
    for one more task and for the models' own doubt; see :func:`typical_metric`."""
    middle, off = typical_metric(columns, mean)
    low, high = (typical_metric(columns, mean + end * deviation)[0] for end in (-1.0, 1.0))
    return middle, low - off, high + off


def possible(values: Array) -> tuple[float, float]:
    """Least and largest value that a metric can have, by the results ``values`` that are known.

    A share, a percentage or a correlation where all lie within 0..1, 0..100 or their negatives too;
    no less than 0 where none is negative.
    """
    low, high = float(values.min()), float(values.max())
    least = next((-top for top in (1.0, 100.0) if low >= -top and high <= top), -np.inf)
    most = next((top for top in (1.0, 100.0) if low >= -top and high <= top), np.inf)
    return (0.0 if low >= 0 else least), most


def normal_range(models: int) -> Array:
    """``(2,)``: the least and the largest normal score among so many models."""
    from scipy.special import ndtri

    top = float(ndtri(1.0 - 0.5 / max(models, 2)))
    return np.array([-top, top])
