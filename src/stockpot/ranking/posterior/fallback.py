"""What the posterior falls back on where a history is short or strange.

Covariances cannot be told from six tasks, and an odd history misleads them. So the posterior is a
mixture of three members, of which two need no covariance:

- *mean rank*: models in the order of their mean over history, whatever was measured;
- *like tasks*: the mean over old tasks weighted by ``exp(4 x Spearman)``, the agreement of an old
  task with the new one on the models that were measured (at least three);
- the Gaussian of :mod:`.covariance`.

Their weights are learnt on the history, each of its tasks played as if it were new. Like tasks (at
their best share) count as much against the Gaussian alone as their gain outweighs its own scatter
over tasks, ``1 - (standard error / gain)^2``, and nothing where there is no gain (the positive part
of James and Stein 1961). The two together and mean rank then count as ``exp(merit * tasks / 0.7)``,
as settings do (:mod:`.learning`): half each where nothing was gained, next to all for a gain of .05
over 36 tasks. (Mean rank or nothing, by the gain's scatter, loses .01 at 5 anchors and .02 at 20.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stockpot.ranking.history.table import Array
from stockpot.ranking.posterior.covariance import Rows

AGREEMENT = 4.0
LEAST_ANCHORS = 3
SHARES = np.linspace(0.0, 1.0, 5)


@dataclass(frozen=True)
class Trust:
    """How much a source of evidence counts, 0..1, and why: its gain and that gain's standard error
    over so many tasks (0: nothing was learnt)."""

    weight: float = 1.0
    gain: float = float("nan")
    error: float = float("nan")
    tasks: int = 0

    def __str__(self) -> str:
        return f"{self.gain:+.3f} +- {self.error:.3f} over {self.tasks} tasks left out"


NOTHING = Trust(0.0)


def trust(gains: Array) -> Trust:
    """From the gain on each task, ``(tasks,)``: what is left after shrinking by its own scatter."""
    count = len(gains)
    error = float(gains.std(ddof=1) / np.sqrt(count)) if count > 1 else float("inf")
    return shrunk(float(gains.mean()), error, count)


def shrunk(gain: float, error: float, tasks: int) -> Trust:
    """From a gain and its standard error over so many tasks."""
    weight = max(0.0, 1.0 - (error / gain) ** 2) if gain > 0 else 0.0
    return Trust(weight, gain, error, tasks)


@dataclass(frozen=True)
class MemberWeights:
    """Weights of the members. ``like``: share of *like tasks* beside the Gaussian; ``trust``: of
    both against mean rank."""

    like: float = 0.0
    trust: Trust = field(default_factory=Trust)

    @property
    def weights(self) -> Array:
        """``(3,)``, sum 1: mean rank, like tasks, Gaussian."""
        both = self.trust.weight
        return np.array([1.0 - both, both * self.like, both * (1.0 - self.like)])


class Rivals:
    """Members without a covariance; ``rows``: normal scores ``(N, T)``, complete."""

    def __init__(self, rows: Array) -> None:
        self.rows = rows

    def __call__(
        self, mean: Array, anchors: Rows, values: Array, *, without: int | None = None
    ) -> Array:
        """``(2, N)``: mean rank and like tasks, with the middle and the spread of ``mean``.

        ``mean``: ``(N,)``, the Gaussian's; ``values``: ``(k,)``, what the anchors reached;
        ``without`` leaves one task out.
        """
        rows = self.rows if without is None else np.delete(self.rows, without, axis=1)
        plain = rows.mean(axis=1) if rows.shape[1] else mean
        like = plain
        if len(anchors) >= LEAST_ANCHORS and rows.shape[1]:
            weights = np.exp(AGREEMENT * rank_correlation(rows[anchors], values))
            like = rows @ (weights / weights.sum())
        spread = float(plain.std())
        slope = float(mean.std()) / spread if spread > 1e-9 else 1.0
        return np.asarray(mean.mean() + slope * (np.stack([plain, like]) - plain.mean()))


def rank_correlation(columns: Array, values: Array) -> Array:
    """``(T,)``: Spearman's correlation of each column ``(k, T)`` with ``values``; 0 if constant."""
    from scipy.stats import rankdata

    ranks = rankdata(columns, axis=0)
    ranks -= ranks.mean(axis=0)
    goal = rankdata(values)
    goal -= goal.mean()
    norms = np.sqrt((ranks**2).sum(axis=0) * (goal @ goal))
    return np.asarray((goal @ ranks) / np.maximum(norms, 1e-12), dtype=np.float64)
