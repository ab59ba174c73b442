"""What is believed of every model of a zoo: the posterior, asked about one task."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from stockpot.evaluation import Interval
from stockpot.ranking.history import Table
from stockpot.ranking.posterior import Posterior, Ranking, Standing, fit
from stockpot.ranking.posterior.marginals import beside_untrained
from stockpot.ranking.posterior.result import EvidenceUse
from stockpot.ranking.schema import Belief
from stockpot.ranking.scores import Value

# Scores that are believed before the history has tested them: what a head reaches on examples that
# it has not seen, and two that allow for few examples of many features. Others saturate there, or
# grow with a model's width or scale, so that they compare models of one kind at best.
UNTESTED = ("loo_ridge", "knn", "logme", "reg_hscore")

_NORMAL = 1.6449  # standard deviations from the mean to the end of a 90 % interval
_DRAWS = 20_000

Facts = Mapping[str, Mapping[str, float | str]]


@dataclass(frozen=True)
class Beliefs:
    """The posterior's answer. ``bounds``: least and largest value that the metric can have; None
    where the history's results are in other units, or none is of these models, so that levels mean
    nothing here. ``unused``:
    scores that were computed and not believed, and why. ``judged``: examples that a result is
    measured on, of which an accuracy's sampling error follows; 0: results are taken as exact.

    The posterior takes real results as they are. They are not: an accuracy on 200 examples is off
    by two points and more. So a measured model's interval is that of its sampling error, and as
    soon as something is measured, P(best) allows for it.
    """

    ranking: Ranking
    bounds: tuple[float, float] | None
    unused: dict[str, str] = field(default_factory=dict)
    judged: int = 0

    @property
    def order(self) -> list[str]:
        """Models, best first."""
        return self.ranking.order

    @cached_property
    def models(self) -> dict[str, Standing]:
        """Each model's standing."""
        return {each.model: each for each in self.ranking.standings}

    def value(self, model: str) -> Interval | None:
        """Expected result in the metric's units and its 90 % interval."""
        found = self.models[model].metric
        if found is None or self.bounds is None:
            return None
        low, high = self.bounds
        if self.models[model].measured:
            error = _NORMAL * self._error(found.mean)
            found = Interval(found.mean, found.mean - error, found.mean + error)
        return Interval(
            *(float(np.clip(v, low, high)) for v in (found.mean, found.low, found.high))
        )

    def _error(self, value: float) -> float:
        """Standard error of a measured accuracy."""
        if not self.judged or self.bounds != (0.0, 1.0):
            return 0.0
        # One success and one failure more: nothing is certain because 20 of 20 were right.
        share = (value * self.judged + 1) / (self.judged + 2)
        return float(np.sqrt(share * (1 - share) / self.judged))

    @cached_property
    def best(self) -> dict[str, float]:
        """P(best) of every model."""
        stated = {name: each.best for name, each in self.models.items()}
        values = {name: self.value(name) for name in self.order}
        known = [value for value in values.values() if value is not None]
        measured = any(each.measured for each in self.models.values())
        if not measured or len(known) < len(values) or self.bounds != (0.0, 1.0):
            return stated
        means = np.array([value.mean for value in known])
        spread = np.array([(value.high - value.low) / (2 * _NORMAL) for value in known])
        untrained = np.array([self.models[name].untrained for name in values])
        draws = np.random.default_rng(0).normal(means, spread, (_DRAWS, len(known)))
        draws[:, untrained] = -np.inf
        wins = np.bincount(draws.argmax(axis=1), minlength=len(known)) / _DRAWS
        wins = beside_untrained(wins, untrained, self.ranking.doubt)
        return dict(zip(values, wins.tolist(), strict=True))

    def of(self, model: str) -> Belief:
        """One model: rank, value (None where nothing says what to expect), P(best), reasons."""
        standing = self.models[model]
        return Belief(
            rank=standing.rank,
            value=self.value(model),
            p_best=self.best[model],
            reasons=standing.reasons,
        )

    @property
    def evidence(self) -> tuple[EvidenceUse, ...]:
        """Every source of evidence: name, whether it was used, and why."""
        unused = (EvidenceUse(name, False, why) for name, why in self.unused.items())
        return (*self.ranking.evidence, *unused)

    def next(self, costs: Mapping[str, float], count: int) -> list[str]:
        """The ``count`` models, among those with a cost, most worth fine-tuning per second."""
        wanted = {model: max(cost, 1e-9) for model, cost in costs.items()}
        found = [each.model for each in self.ranking.next(wanted) if each.model in wanted]
        return found[:count]


def learn(
    models: Sequence[str],
    table: Table | None,
    metadata: Facts,
    scores: Mapping[str, np.ndarray] | None = None,
) -> Posterior:
    """The posterior over a history; without one, over models that have no results yet.

    ``scores``: what each transferability score said on the tasks of the history, aligned to it.
    """
    if table is None:
        table = Table(tuple(models), (), np.empty((len(models), 0)))
    return fit(table, metadata, scores)


def trusted(
    posterior: Posterior,
    scored: Mapping[str, Mapping[str, Value]],
    wanted: Sequence[str] | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Which scores count as evidence: score -> model -> number, and why the others do not.

    ``scored``: model -> score -> value. A score that is saturated for some model says nothing about
    any: what it gives the others is inflated as well. A score that the history never tested counts
    where it is among ``UNTESTED`` or was ``wanted`` by name.
    """
    kept: dict[str, dict[str, float]] = {}
    unused: dict[str, str] = {}
    for name in dict.fromkeys(score for values in scored.values() for score in values):
        own = {model: values[name] for model, values in scored.items() if name in values}
        full = [each for each in own.values() if (each.warning or "").startswith("saturated")]
        sensor = posterior.sensors.get(name)
        tested = sensor is not None and not sensor.reason.startswith("never tested")
        if full:
            unused[name] = f"saturated for {len(full)} of {len(own)} models"
        elif not tested and name not in (wanted or UNTESTED):
            unused[name] = "never tested on this history"
        else:
            kept[name] = {model: value.value for model, value in own.items()}
    return kept, unused


def believe(
    posterior: Posterior,
    models: Sequence[str],
    *,
    metadata: Facts,
    scores: Mapping[str, Mapping[str, float]],
    anchors: Mapping[str, float],
    metric: str,
    untrained: Collection[str] = (),
    unused: Mapping[str, str] | None = None,
    judged: int = 0,
) -> Beliefs:
    """What is believed of ``models`` on a new task.

    ``scores``: score -> model -> value; ``anchors``: model -> result of a real fine-tuning;
    ``metric``: ``"accuracy"`` (a fraction) or ``"r2"``; ``untrained``: models whose weights are an
    initialisation's.
    """
    ranking = posterior.for_task(anchors, scores, models, metadata=metadata, untrained=untrained)
    values = posterior.table.values
    high = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
    foreign = high > 1.0 and len(anchors) < 3  # three anchors and more set the level themselves
    foreign |= not anchors and not any(model in posterior.table.row for model in models)
    bounds = None if foreign else ((0.0, 1.0) if metric == "accuracy" else (-np.inf, 1.0))
    return Beliefs(ranking, bounds, dict(unused or {}), judged)
