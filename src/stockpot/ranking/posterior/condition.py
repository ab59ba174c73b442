"""Gaussian conditioning on what was observed of a new task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stockpot.ranking.history.table import Array
from stockpot.ranking.posterior.covariance import Rows

TEMPER = 0.5


@dataclass(frozen=True)
class Observations:
    """``residual[i] = gain[i] * f[rows[i]] + noise``: what was seen of k rows.

    ``f``: deviation of a model's standing from its mean; ``noise``: ``(k,)`` variances.
    """

    rows: Rows
    residual: Array
    gain: Array
    noise: Array

    def joined(self, other: Observations) -> Observations:
        """Both sets of observations."""
        return Observations(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.residual, other.residual]),
            np.concatenate([self.gain, other.gain]),
            np.concatenate([self.noise, other.noise]),
        )


@dataclass(frozen=True)
class Conditioned:
    """``shift``: ``(N,)`` posterior mean of f; ``reduction``: ``(N,)`` how much variance went;
    ``parts``: ``(N, k)``, what each observation adds to the shift, the rest of which comes from the
    old tasks that the new one is like; ``tasks``: ``(T,)``, their weights, none without likeness.
    """

    shift: Array
    reduction: Array
    parts: Array
    tasks: Array


def condition(covariance: Array, seen: Observations, alike: Array | None = None) -> Conditioned:
    """Posterior of f given observations (Rasmussen and Williams 2006, eq. 2.22-2.24).

    ``covariance``: ``(N, k)``, prior covariance of all rows with the observed ones. ``alike``:
    ``(N, T)``, means of the components of a mixture of Gaussians that share it; without, there is
    one of mean 0. Components are weighed by :func:`task_weights`.
    """
    from scipy.linalg import cho_factor, cho_solve

    cross = covariance * seen.gain
    inner = cross[seen.rows] * seen.gain[:, None]
    inner = (inner + inner.T) / 2.0
    inner[np.diag_indices_from(inner)] += seen.noise
    factor = cho_factor(inner, lower=True, check_finite=False)
    weights = cho_solve(factor, seen.residual, check_finite=False)
    solved = cho_solve(factor, cross.T, check_finite=False)
    reduction = np.einsum("nk,kn->n", cross, solved)
    shift = cross @ weights
    if alike is None:
        return Conditioned(shift, reduction, cross * weights, np.empty(0))
    expected = seen.gain[:, None] * alike[seen.rows]
    explained = cho_solve(factor, expected, check_finite=False)
    missed = seen.residual[:, None] - expected
    tasks = task_weights(np.einsum("kt,kt->t", missed, weights[:, None] - explained))
    # Each component's posterior mean of f, less what all have in common.
    means = alike - cross @ explained
    middle = means @ tasks
    between = ((means - middle[:, None]) ** 2) @ tasks
    return Conditioned(shift + middle, reduction - between, cross * weights, tasks)


def task_weights(distance: Array) -> Array:
    """Weights of components, ``(..., T)``, from squared Mahalanobis distances to what was seen.

    The likelihood is tempered by :data:`TEMPER`: a new task is never exactly one of the mixture,
    and likelihoods of a model that is somewhat wrong are too sure (Grunwald 2012, the safe
    Bayesian).
    """
    power = -0.5 * TEMPER * distance
    weights = np.exp(power - power.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def no_observations() -> Observations:
    """Nothing seen."""
    none = np.empty(0)
    return Observations(np.empty(0, dtype=np.int64), none, none, none)
