"""One task's forecast: where every member of the mixture puts every model, and how far off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stockpot.ranking.history.table import Array
from stockpot.ranking.posterior.condition import (
    Conditioned,
    Observations,
    condition,
    no_observations,
)
from stockpot.ranking.posterior.covariance import Profiles, Rows, Shared
from stockpot.ranking.posterior.fallback import MemberWeights, Rivals
from stockpot.ranking.posterior.scale import MonotoneScale, place_anchors
from stockpot.ranking.posterior.settings import PosteriorSettings

MEASURED = 0.02  # deviation of a model that was measured
_STRANGER = 0.3  # variance on top of D of a model without results


@dataclass(frozen=True)
class Forecast:
    """What is expected of one task, ``N`` models and ``k`` anchors.

    ``members``: ``(3, N)``, locations by mean rank, like tasks and the Gaussian; ``prior``:
    ``(N,)``, variances before anything was seen; ``placed``: ``(k,)``, the anchors on the scale;
    ``seen``: them as observations, and ``given``: what the Gaussian makes of them.
    """

    shared: Shared
    members: Array
    prior: Array
    placed: Array
    seen: Observations
    given: Conditioned

    def location(self, blend: MemberWeights) -> Array:
        """``(N,)``: mean of the mixture."""
        return np.asarray(blend.weights @ self.members)

    def variance(self, blend: MemberWeights) -> Array:
        """``(N,)``: within the members and between them."""
        weights = blend.weights
        between = weights @ (self.members - self.location(blend)) ** 2
        return np.asarray(self.prior - weights[2] * self.given.reduction + between)


def forecast(
    settings: PosteriorSettings,
    profiles: Profiles,
    rivals: Rivals,
    anchors: Rows,
    values: Array,
    *,
    without: int | None = None,
) -> Forecast:
    """Forecast a task on which ``anchors`` ``(k,)`` reached ``values`` (higher is better).

    ``without`` leaves one task of the history out.
    """
    shared = profiles.shared(anchors, without=without)
    mean, unit, count = shared.mean, shared.variance, len(shared.mean)
    given = settings.general, settings.likeness
    prior = shared.variances(profiles.own(shared), *given)
    prior = prior + (1.0 - profiles.reliability) * (unit + _STRANGER)
    placed, seen = np.empty(0), no_observations()
    found = Conditioned(np.zeros(count), np.zeros(count), np.zeros((count, 0)), np.empty(0))
    if len(anchors):
        residual = residuals(shared, settings.scale, anchors, values)
        placed = mean[anchors] + residual
        doubt = (1.0 - profiles.reliability[anchors]) * unit
        noise = settings.noise * unit + doubt
        seen = Observations(anchors, residual, np.ones(len(anchors)), noise)
        found = condition(shared.covariance(*given), seen, settings.alike(shared))
    others = rivals(mean, anchors, values, without=without)
    members = np.concatenate([others, (mean + found.shift)[None]])
    return Forecast(shared, members, prior, placed, seen, found)


def residuals(shared: Shared, scale: MonotoneScale, anchors: Rows, values: Array) -> Array:
    """``(k,)``: how far results of ``anchors`` lie from what history has them reach."""
    mean = shared.mean[anchors]
    spread = expected_spread(mean, shared)
    placed = place_anchors(values, scale, float(mean.mean()), spread)
    return np.asarray(placed - mean, dtype=np.float64)


def expected_spread(mean: Array, shared: Shared) -> float:
    """Standard deviation to expect of results among models with prior means ``mean`` ``(k,)``.

    The variance of the prior means, drawn towards that of all models (with five models' weight),
    plus D. A sample of the best only spreads less than the pool does.
    """
    drawn = (len(mean) * mean.var() + 5.0 * shared.mean.var()) / (len(mean) + 5.0)
    return float(np.sqrt(drawn + shared.variance))


def own_variance(variance: Array, unit: float) -> Array:
    """What is left of the prior ``variance`` without the common offset of the pool, D, which moves
    no rank; no less than a tenth of D."""
    return np.asarray(np.maximum(variance - unit, 0.1 * unit))


def deviations(variance: Array, unit: float, scatter: float = 0.5) -> Array:
    """Standard deviation of outcomes: what is left of the prior, and ``scatter``, in D, for what a
    single run of a model scatters about its own standing."""
    return np.asarray(np.sqrt(own_variance(variance, unit) + scatter * unit))
