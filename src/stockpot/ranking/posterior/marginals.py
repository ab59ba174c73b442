"""Ranks, the probability of being best, and expected improvement, from Gaussian marginals.

All of these are deterministic sums over models taken as independent given the posterior; how far
that is off is measured on the history and corrected by one factor (:mod:`.learning`).
"""

from __future__ import annotations

import numpy as np

from stockpot.ranking.history.table import Array, Mask

_GRID = 256
_EXACT = 400


class GaussianOutcomes:
    """Outcomes of n models, ``N(mean, deviation^2)`` each.

    Above :data:`_EXACT` models, counts are interpolated on a grid of :data:`_GRID` points (off by
    less than one rank in a thousand).
    """

    def __init__(self, mean: Array, deviation: Array) -> None:
        self.mean = mean
        self.deviation = deviation
        self._grid: Array | None = None
        if len(mean) > _EXACT:
            low, high = (mean - 4.0 * deviation).min(), (mean + 4.0 * deviation).max()
            self._grid = np.linspace(float(low), float(high), _GRID)
            self._counts = self._count(self._grid)

    def above(self, points: Array) -> Array:
        """Expected number of models whose outcome lies above each of ``points`` ``(n,)``."""
        if self._grid is None:
            return self._count(points)
        return np.interp(points, self._grid, self._counts)

    def scatter(self, points: Array) -> Array:
        """Standard deviation of the number of models above each of ``points`` ``(n,)``."""
        from scipy.special import ndtr

        chance = ndtr((self.mean - points[:, None]) / self.deviation)
        scatter: Array = np.sqrt((chance * (1.0 - chance)).sum(axis=1))
        return scatter

    def ranks(self) -> Array:
        """``(n,)``: 1 + expected number of better models; 1 is best."""
        from scipy.special import ndtr

        if self._grid is None:
            spread = np.sqrt(self.deviation[:, None] ** 2 + self.deviation**2)
            above: Array = ndtr((self.mean - self.mean[:, None]) / spread).sum(axis=1)
            return 0.5 + above
        nodes, weights = np.polynomial.hermite_e.hermegauss(7)
        points = self.mean + self.deviation * nodes[:, None]
        counts = self.above(points.ravel()).reshape(points.shape)
        # A model is counted against itself with probability 1/2.
        ranks: Array = 0.5 + (weights / weights.sum()) @ counts
        return ranks

    def _count(self, points: Array) -> Array:
        from scipy.special import ndtr

        counts: Array = ndtr((self.mean - points[:, None]) / self.deviation).sum(axis=1)
        return counts


def probability_best(mean: Array, deviation: Array, points: int = _GRID) -> Array:
    """``(n,)``, sums to 1: ``P(m) = int phi_m(x) prod_{j != m} Phi_j(x) dx`` by a sum on a grid.

    ``points``: of the grid; models known better than it resolves get points of their own.
    """
    from scipy.special import log_ndtr

    deviation = np.maximum(deviation, 1e-6 * max(float(deviation.max()), 1e-3))
    high = float((mean + 5.0 * deviation).max())
    low = min(float((mean - 2.0 * deviation).max()), high - 1e-6)
    # A model as good as known is a spike; the grid must not step over it.
    grid = np.union1d(np.linspace(low, high, points), _near(mean, deviation, low, high))
    weights = np.gradient(grid)
    standard = (grid - mean[:, None]) / deviation[:, None]
    log_cdf = log_ndtr(standard)
    others = log_cdf.sum(axis=0) - log_cdf
    density = np.exp(-0.5 * standard**2 + others) / deviation[:, None]
    chance = density @ weights
    total = float(chance.sum())
    if total <= 0.0:
        chance = (mean == mean.max()).astype(np.float64)
        total = float(chance.sum())
    return np.asarray(chance / total, dtype=np.float64)


def beside_untrained(chance: Array, untrained: Mask, doubt: float) -> Array:
    """P(best) ``(n,)`` of a pool in which ``untrained`` networks compete.

    ``chance``: that of the others among themselves; ``doubt``: the chance that training before
    makes no difference on this task, so that all are alike.
    """
    if not untrained.any():
        return chance
    return np.asarray((1.0 - doubt) * np.where(untrained, 0.0, chance) + doubt / len(chance))


def _near(mean: Array, deviation: Array, low: float, high: float) -> Array:
    narrow = deviation < (high - low) / 40.0
    leading = np.flatnonzero(narrow & (mean >= low - 5.0 * deviation))
    leading = leading[np.argsort(-mean[leading])][:16]
    offsets = np.linspace(-4.0, 4.0, 17)
    return np.asarray((mean[leading, None] + offsets * deviation[leading, None]).ravel())


def expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """``E max(outcome - best, 0)`` (Jones, Schonlau and Welch 1998, eq. 15)."""
    from scipy.special import ndtr

    gap = mean - best
    standard = gap / np.maximum(deviation, 1e-12)
    density = np.exp(-0.5 * standard**2) / np.sqrt(2.0 * np.pi)
    return np.asarray(gap * ndtr(standard) + deviation * density, dtype=np.float64)
