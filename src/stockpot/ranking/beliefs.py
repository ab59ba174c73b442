"""What is believed of every model, from history, metadata, scores and real fine-tunings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stockpot.ranking.history import Table


@dataclass(frozen=True)
class Estimate:
    """Expected value with its 90 % interval."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Belief:
    """``rank``: place among all models, 1 is first; ``value``: result in the metric's units, None
    where nothing says what level to expect; ``p_best``: probability of being the best of all."""

    rank: Estimate
    value: Estimate | None
    p_best: float
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "rank": self.rank.to_json(),
            "value": None if self.value is None else self.value.to_json(),
            "p_best": self.p_best,
            "reasons": list(self.reasons),
        }


@dataclass
class Beliefs:
    models: dict[str, Belief]
    order: list[str]
    evidence: list[str]

    def next(self, costs: Mapping[str, float], count: int) -> list[str]:
        return sorted(costs, key=lambda n: self.models[n].rank.mean)[:count]


def believe(
    models: Sequence[str],
    *,
    table: Table | None,
    metadata: Mapping[str, Mapping[str, float | str]],
    scores: Mapping[str, Mapping[str, float]],
    anchors: Mapping[str, float],
) -> Beliefs:
    z = np.zeros(len(models))
    for s in scores.values():
        v = np.array([s.get(m, np.nan) for m in models])
        if np.isfinite(v).sum() > 1 and np.nanstd(v) > 0:
            z += np.nan_to_num((v - np.nanmean(v)) / np.nanstd(v))
    a = np.array([anchors.get(m, np.nan) for m in models])
    if np.isfinite(a).sum() > 1 and np.nanstd(a) > 0:
        z += 5 * np.nan_to_num((a - np.nanmean(a)) / np.nanstd(a))
    rank = (-z).argsort().argsort() + 1.0
    p = np.exp(z - z.max())
    p /= p.sum()
    found = {
        m: Belief(
            Estimate(r, max(1, r - 2), min(len(models), r + 2)), None, float(q), ()
        )
        for m, r, q in zip(models, rank, p, strict=True)
    }
    return Beliefs(found, sorted(models, key=lambda m: found[m].rank.mean), [])
