"""How much two models' standing on a new task goes together, from their history.

A new task's column of scores is Gaussian: mean ``h`` (each model's mean over history), covariance

    K(i, j) = (1 - b) L(i, j) + b D exp(-|x_i - x_j|^2 / 2 m) + a (h_i - h)(h_j - h) + D,

``x_i``: model i's row of scores over T tasks, ``r_i = x_i - h_i`` its profile, ``D`` the mean
square of all profiles, ``m`` the median squared distance between rows.

- ``L``: covariance of profiles over tasks, half as it is and half of rank :data:`FACTORS`. The
  first is a weighting of all old tasks (ridge regression on their columns), the second the few
  directions in which tasks really differ; the rest is mostly noise of a covariance from few tasks.
- The exponential: models with like rows (the same family) err alike, in any direction.
- The ``a`` term: a task may follow the general order of models more or less than usual.
- The last ``D``: the whole pool may stand higher or lower; only differences are learnt.

Where the history has many tasks, a new one is often like a few of them and unlike the rest, which
one Gaussian cannot say. With likeness ``rho > 0`` the column is a mixture of as many Gaussians as
there are old tasks, equally likely at first: one with mean ``h + rho r_t`` for each old task t, and
all with the covariance ``(1 - rho^2) (K - D - a ...) + D + a ...``, so that the mixture spreads as
K does. What is observed tells which old tasks the new one is like.

Sources: Gaussian process regression (Rasmussen and Williams 2006, eq. 2.22-2.24), probabilistic PCA
(Tipping and Bishop 1999) for the low-rank half.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from stockpot.ranking.history.table import Array

FACTORS = 3
LIKENESS = 0.3  # b
_SAMPLE = 300
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shared:
    """What covariances are made of, between all N rows and some k of them.

    ``mean``: ``(N,)``; ``base``: ``(N, k)``, K without its ``a`` term; ``general``: ``(N, k)``, the
    ``a`` term at a = 1; ``variance``: D; ``profiles``: ``(N, T)``, one column an old task.
    """

    mean: Array
    base: Array
    general: Array
    variance: float
    profiles: Array

    def covariance(self, general: float, likeness: float = 0.0) -> Array:
        """``(N, k)``: K, given a and rho, of one component of the mixture."""
        return self._less(self.base, likeness) + general * self.general

    def variances(self, own: tuple[Array, Array], general: float, likeness: float) -> Array:
        """``(N,)``: the diagonal of that covariance, from :meth:`Profiles.own`."""
        return self._less(own[0], likeness) + general * own[1]

    def _less(self, base: Array, likeness: float) -> Array:
        left = 1.0 - likeness**2
        return np.asarray(left * base + (1.0 - left) * self.variance)


class Profiles:
    """Rows of scores ``x``, ``(N, T)`` and complete, and the covariance that they imply.

    ``reliability``: ``(N,)`` in 0..1, how far a row rests on results of that model (1) rather than
    on a guess (0); rows that are guesses are not alike for sharing one.
    """

    def __init__(self, rows: Array, reliability: Array | None = None) -> None:
        self.rows = rows
        self.tasks = rows.shape[1]
        self.reliability = np.ones(len(rows)) if reliability is None else reliability
        self._squares = (rows**2).sum(axis=1)
        self._total = rows.sum(axis=1)

    @cached_property
    def _gram(self) -> Array:
        product: Array = self.rows @ self.rows.T
        return product

    @cached_property
    def _directions(self) -> Array:
        """``(T, FACTORS + 2)``: leading directions of the profiles, to start from."""
        residual = self.rows - (self._total / self.tasks)[:, None]
        known = residual[self.reliability > 0.5] if (self.reliability > 0.5).any() else residual
        _, vectors = np.linalg.eigh(known.T @ known)
        leading: Array = vectors[:, ::-1][:, : FACTORS + 2]
        return leading

    @cached_property
    def median_distance(self) -> float:
        """Median squared distance between rows, from a sample of them."""
        step = max(1, len(self.rows) // _SAMPLE)
        some = self.rows[::step]
        squares = (some**2).sum(axis=1)
        distance = squares[:, None] + squares - 2.0 * some @ some.T
        return max(float(np.median(distance)), 1e-9)

    def shared(self, some: Rows, *, without: int | None = None) -> Shared:
        """Covariance parts between all rows and ``some``; ``without`` leaves one task out."""
        rows, tasks, total, squares = self.rows, self.tasks, self._total, self._squares
        products = self._products(some)
        if without is not None:
            left_out = rows[:, without]
            products = products - np.outer(left_out, left_out[some])
            tasks, total, squares = tasks - 1, total - left_out, squares - left_out**2
        mean = total / max(tasks, 1)
        variance = self._variance(float(squares.mean() - tasks * (mean**2).mean()), tasks)
        linear = products / max(tasks, 1) - np.outer(mean, mean[some])
        residual = rows - mean[:, None]
        if without is not None:
            residual[:, without] = 0.0
        factors = self._factors(residual, tasks)
        if factors is not None:
            linear = 0.5 * linear + 0.5 * (factors @ factors[some].T) / tasks
        distance = np.maximum(squares[:, None] + squares[some] - 2.0 * products, 0.0)
        alike = np.exp(-distance / (2.0 * self.median_distance))
        alike *= self.reliability[:, None] * self.reliability[some]
        alike[some, np.arange(len(some))] = 1.0
        centred = mean - mean.mean()
        base = (1.0 - LIKENESS) * linear + LIKENESS * variance * alike + variance
        if without is not None:
            residual = np.delete(residual, without, axis=1)
        return Shared(mean, base, np.outer(centred, centred[some]), variance, residual)

    def own(self, shared: Shared) -> tuple[Array, Array]:
        """``(N,)`` each: the diagonals that belong to ``base`` and ``general``."""
        linear = self._squares / max(self.tasks, 1) - shared.mean**2
        factors = self._factors(self.rows - shared.mean[:, None], self.tasks)
        if factors is not None:
            linear = 0.5 * linear + 0.5 * (factors**2).sum(axis=1) / self.tasks
        centred = shared.mean - shared.mean.mean()
        base = (1.0 - LIKENESS) * linear + (1.0 + LIKENESS) * shared.variance
        return base, centred**2

    def _products(self, some: Rows) -> Array:
        if "_gram" in self.__dict__ or len(self.rows) <= 2 * _SAMPLE:
            taken: Array = self._gram[:, some]
            return taken
        product: Array = self.rows @ self.rows[some].T
        return product

    def _variance(self, squares: float, tasks: int) -> float:
        """D; with few tasks drawn towards 1/2, what tasks that share half their order have."""
        return max((squares + 0.5) / (max(tasks - 1, 0) + 1.0), 1e-3)

    def _factors(self, residual: Array, tasks: int) -> Array | None:
        """``(N, FACTORS)``: profiles in their leading directions (orthogonal iteration)."""
        if tasks <= FACTORS:
            return None
        basis = self._directions
        for _ in range(2):
            basis, _ = np.linalg.qr(residual.T @ (residual @ basis))
        image = residual @ basis
        _, turn = np.linalg.eigh(image.T @ image)
        leading: Array = (image @ turn)[:, ::-1][:, :FACTORS]
        return leading
