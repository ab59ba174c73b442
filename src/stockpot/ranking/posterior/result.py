"""What the posterior says about a new task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stockpot.errors import InputError
from stockpot.evaluation import Interval
from stockpot.ranking.history.table import Array
from stockpot.ranking.posterior.marginals import expected_improvement


@dataclass(frozen=True)
class Standing:
    """One model on the new task.

    ``score``: within-task normal score; ``rank``: 1 is best; ``metric``: in the task's units, or
    None where nothing is known of them; ``best``: probability of being the best; ``measured``:
    whether it was fine-tuned on this task; ``untrained``: whether it stands where it does because
    its weights are an initialisation's; ``reasons``: what speaks for and against it, in words.
    Intervals hold 90 %.
    """

    model: str
    score: Interval
    rank: Interval
    metric: Interval | None
    best: float
    measured: bool
    untrained: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class EvidenceUse:
    """A source of evidence, whether it was used, and why."""

    name: str
    used: bool
    reason: str


@dataclass(frozen=True)
class Candidate:
    """A model to fine-tune next. ``improvement``: expected, over the best so far, in units of the
    metric where those are known, else of the scale; ``per_cost``: divided by ``cost``."""

    model: str
    improvement: float
    cost: float
    per_cost: float


@dataclass(frozen=True)
class Ranking:
    """All candidates, best first, and what the order rests on.

    ``location``, ``deviation``: ``(n,)``, posterior on the model's own scale, in the order of
    ``standings``; ``unit``: what one unit of that scale is in the metric, nan if unknown;
    ``doubt``: the chance that untrained networks are as good as the others.
    """

    standings: tuple[Standing, ...]
    evidence: tuple[EvidenceUse, ...]
    location: Array
    deviation: Array
    unit: float
    doubt: float = 0.0

    @property
    def order(self) -> list[str]:
        """Names, best first."""
        return [each.model for each in self.standings]

    def __getitem__(self, model: str) -> Standing:
        for each in self.standings:
            if each.model == model:
                return each
        raise InputError(f"'{model}' is not among the candidates")

    def next(self, costs: Mapping[str, float] | None = None) -> list[Candidate]:
        """Models not yet measured, by expected improvement per cost, best first.

        ``costs``: model -> cost in any unit, positive; 1 where not given. The improvement is over
        the best measured model, or, before the first, over the best expectation.
        """
        costs = costs or {}
        for model, cost in costs.items():
            if not cost > 0:
                raise InputError(f"the cost of '{model}' is {cost}, expected a positive number")
        measured = np.array([each.measured for each in self.standings], dtype=bool)
        if measured.all():
            return []
        best = float(self.location[measured].max() if measured.any() else self.location.max())
        gain = expected_improvement(self.location, self.deviation, best)
        gain = gain * (self.unit if np.isfinite(self.unit) else 1.0)
        found = [
            Candidate(each.model, float(g), cost, float(g) / cost)
            for each, g, done in zip(self.standings, gain, measured, strict=True)
            for cost in [float(costs.get(each.model, 1.0))]
            if not done
        ]
        return sorted(found, key=lambda each: -each.per_cost)
