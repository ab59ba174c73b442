"""Gaussian conditioning on what was observed of a new task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stockpot.ranking.history.table import Array
from stockpot.ranking.posterior.covariance import Rows


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
    ``parts``: ``(N, k)``, what each observation adds to the shift."""

    shift: Array
    reduction: Array
    parts: Array


def condition(covariance: Array, seen: Observations) -> Conditioned:
    """Posterior of f given observations (Rasmussen and Williams 2006, eq. 2.22-2.24).

    ``covariance``: ``(N, k)``, prior covariance of all rows with the observed ones.
    """
    from scipy.linalg import cho_factor, cho_solve

    cross = covariance * seen.gain
    inner = cross[seen.rows] * seen.gain[:, None]
    inner = (inner + inner.T) / 2.0
    inner[np.diag_indices_from(inner)] += seen.noise
    factor = cho_factor(inner, lower=True, check_finite=False)
    weights = cho_solve(factor, seen.residual, check_finite=False)
    solved = cho_solve(factor, cross.T, check_finite=False)
    return Conditioned(cross @ weights, np.einsum("nk,kn->n", cross, solved), cross * weights)


def no_observations() -> Observations:
    """Nothing seen."""
    none = np.empty(0)
    return Observations(np.empty(0, dtype=np.int64), none, none, none)
