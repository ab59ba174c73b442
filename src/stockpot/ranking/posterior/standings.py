"""From a posterior over models to a ranking for people: ranks, metrics, P(best), reasons."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stockpot.evaluation import Interval
from stockpot.ranking.history.table import Array, Mask
from stockpot.ranking.posterior.marginals import (
    GaussianOutcomes,
    beside_untrained,
    probability_best,
)
from stockpot.ranking.posterior.result import EvidenceUse, Ranking, Standing
from stockpot.ranking.posterior.settings import PosteriorSettings

Metric = tuple[Array, Array, Array, float]
_POINTS = 64  # of the grid for P(best), for each factor of its sharpness


class Reasons:
    """Puts what moved a model into words.

    ``counts``: results behind each model of the history; ``parts``: ``(N, k)``, what each of the
    ``sources`` (the anchors first) added to a model's standing; ``alike``: ``(N,)``, what old tasks
    added that the anchors show the new one to be like; ``explained``: by facts.
    """

    def __init__(
        self,
        models: list[str],
        counts: Array,
        explained: float,
        mean: Array,
        parts: Array,
        alike: Array,
        sources: list[str],
        anchors: int,
    ) -> None:
        self._counts = counts
        self._models = models
        self._parts = parts
        self._alike = alike
        self._sources = sources
        self._anchors = anchors
        self._explained = explained
        self._place = (-mean).argsort(kind="stable").argsort() + 1

    def __call__(self, index: int) -> tuple[str, ...]:
        count = int(self._counts[index]) if index < len(self._counts) else 0
        words = []
        if count:
            words.append(
                f"place {self._place[index]} of {len(self._models)} by history "
                f"({count} task{'s' * (count > 1)})"
            )
        elif self._explained > 0:
            words.append("no results in the history; judged by its facts")
        else:
            words.append("no results in the history")
        row = self._parts[index]
        if self._anchors:
            moves = row[: self._anchors]
            total = float(moves.sum() + self._alike[index])
            if abs(total) >= 0.05:
                most = int(np.argmax(moves * np.sign(total)))
                words.append(f"{total:+.2f} from anchors, most by {self._sources[most]}")
        names = self._sources[self._anchors :]
        for name in dict.fromkeys(names):
            total = float(row[self._anchors :][[n == name for n in names]].sum())
            if abs(total) >= 0.05:
                words.append(f"{total:+.2f} from {name}")
        return tuple(words)


def _described(measured: bool, untrained: bool, reasons: tuple[str, ...]) -> tuple[str, ...]:
    first = ("measured on this task",) if measured else ()
    return (*first, *(("never trained: its weights are noise",) if untrained else ()), *reasons)


def _chances(
    settings: PosteriorSettings, location: Array, deviation: Array, measured: Mask
) -> Array:
    """P(best) ``(n,)``, over how sharp the forecasts of old tasks were."""
    spreads = [
        (np.where(measured, deviation, deviation * factor), weight)
        for factor, weight in settings.sharpness
    ]
    parts = [weight * probability_best(location, spread, _POINTS) for spread, weight in spreads]
    return np.asarray(np.sum(parts, axis=0))


def make_ranking(
    settings: PosteriorSettings,
    names: list[str],
    location: Array,
    deviation: Array,
    measured: Mask,
    untrained: Mask,
    doubt: float,
    metric: Metric | None,
    reasons: list[tuple[str, ...]],
    evidence: list[EvidenceUse],
    values: Mapping[str, float],
    sign: float,
) -> Ranking:
    """Order ``names`` by ``location`` ``(n,)``, with ranks, metrics and P(best) from the marginals.

    ``sign`` is -1 where a lower metric is better; ``values``: the measured ones, times ``sign``;
    ``untrained``, ``doubt``: see :func:`.marginals.beside_untrained`.
    """
    from scipy.special import ndtri

    count = len(names)
    low, high = location + settings.low * deviation, location + settings.high * deviation
    pool = GaussianOutcomes(location, deviation)
    ranks, best_rank, worst_rank = pool.ranks(), 0.5 + pool.above(high), 0.5 + pool.above(low)
    # Of what was measured only the others are uncertain.
    others = 1.645 * pool.scatter(location[measured])
    best_rank[measured] = np.minimum(best_rank[measured], ranks[measured] - others)
    worst_rank[measured] = np.maximum(worst_rank[measured], ranks[measured] + others)
    ranks, best_rank, worst_rank = (
        np.clip(r, 1.0, float(count))
        for r in (ranks, np.minimum(best_rank, ranks), np.maximum(worst_rank, ranks))
    )
    scores, best_score, worst_score = (
        ndtri((count - r + 0.5) / count) for r in (ranks, best_rank, worst_rank)
    )
    chance, trained = np.zeros(count), ~untrained
    chance[trained] = _chances(settings, location[trained], deviation[trained], measured[trained])
    chance = beside_untrained(chance, untrained, doubt)

    def in_units(index: int) -> Interval | None:
        if metric is None:
            return None
        if measured[index]:
            value = sign * values[names[index]]
            return Interval(value, value, value)
        ends = [sign * float(part[index]) for part in metric[:3]]
        return Interval(ends[0], min(ends), max(ends))

    order = np.argsort(-location, kind="stable")
    unit = float("nan") if metric is None else metric[3]
    standings = tuple(
        Standing(
            names[i],
            Interval(float(scores[i]), float(worst_score[i]), float(best_score[i])),
            Interval(float(ranks[i]), float(best_rank[i]), float(worst_rank[i])),
            in_units(int(i)),
            float(chance[i]),
            bool(measured[i]),
            bool(untrained[i]),
            _described(bool(measured[i]), bool(untrained[i]), reasons[i]),
        )
        for i in order
    )
    return Ranking(standings, tuple(evidence), location[order], deviation[order], unit, doubt)
