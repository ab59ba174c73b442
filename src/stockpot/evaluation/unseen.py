"""How much of a metric rows of a kind that was not seen could take away.

Rows that all agree have no scatter to redraw, and a bootstrap calls certain what it saw. But of
``n`` rows a share ``q`` of a kind that is not among them stays unseen with probability
``(1 - q) ** n``. So an interval that misses with probability ``error`` on one side has to reach
what the metric could be if the largest shares that stay unseen with that probability were as bad
as can be. For a share of rows that are all right that is the exact interval of Clopper and Pearson
(1934, "The use of confidence or fiducial limits"); with one wrong row of many it still reaches
further than a bootstrap, and from about four on no longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ERROR = 0.025
"""On one side of a 95 % interval."""


@dataclass(frozen=True)
class Stratum:
    """``rows`` that are drawn alike; all of them gone bad take at most ``weight`` off the value."""

    rows: int
    weight: float


def largest_fall(strata: Sequence[Stratum], error: float) -> float:
    """The most that unseen rows take off a mean over ``strata``, each of which holds a share of
    them: the maximum of ``sum(weight * q)`` where ``prod((1 - q) ** rows) = error``.

    By Lagrange's rule ``1 - q`` is proportional to ``rows / weight``, and at most 1.
    """
    strata = sorted((s for s in strata if s.weight > 0), key=lambda s: s.rows / s.weight)
    if not strata:
        return 0.0
    rows = np.array([s.rows for s in strata], dtype=np.float64)
    weights = np.array([s.weight for s in strata])
    # With the first ``k`` strata in doubt and the others as they were seen.
    scales = np.exp((np.log(error) - np.cumsum(rows * np.log(rows / weights))) / np.cumsum(rows))
    last = int(np.flatnonzero(scales * rows / weights <= 1.0)[-1]) + 1
    seen = scales[last - 1] * rows[:last] / weights[:last]
    return float((weights[:last] * (1.0 - seen)).sum())


def all_alike(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """What each class of ``counts`` rows can take off a mean over rows."""
    weights: npt.NDArray[np.float64] = counts / counts.sum()
    return weights


def by_class(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Off a mean of the classes' recalls."""
    return np.full(len(counts), 1.0 / len(counts))


def by_f1(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Off the mean F1 of the classes, where rows of a class go to the smallest other one.

    A share ``q`` of them takes ``q / (2 - q)`` off their own class and ``q r / (2 + q r)`` off the
    other, of which they are ``r`` times as many. Per share that is most at ``q = 0`` or at the
    largest share that stays unseen.
    """
    least = np.sort(counts)
    ratio = counts / np.where(counts == least[0], least[min(1, len(least) - 1)], least[0])
    most = 1.0 - ERROR ** (1.0 / counts)
    per_share = [1.0 / (2.0 - q) + ratio / (2.0 + q * ratio) for q in (0.0, most)]
    weights: npt.NDArray[np.float64] = np.maximum(*per_share) / len(counts)
    return weights


def by_rank(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Off the mean AUROC of each class against the rest: rows rank last in their own class, and
    first among the others of each other class."""
    others = counts.sum() - counts
    weights: npt.NDArray[np.float64] = (1.0 + counts * ((1.0 / others).sum() - 1.0 / others)) / len(
        counts
    )
    return weights
