"""Transferability scores: all scores of a model are one noisy observation of its standing.

The scores ``x`` (S,) of a model on a task, standardised within the pool, are taken to be

    x = beta h + g f + e,   cov e = Sigma (S, S),

``h``: the model's mean over other tasks (what a score merely repeats), ``f``: how the truth
deviates from it (what is news). ``beta``, ``g`` and ``Sigma`` come from pooled least squares over
the tasks for which both scores and truth are known, each predicted from the others; each ``g`` is
shrunk by what its scatter over tasks explains (positive-part James-Stein). Scores that err alike
share their noise, so they are no more than one voice: ``g' Sigma^-1 (x - beta h) / g' Sigma^-1 g``
is all they say of ``f``.

Like models err alike, too: their scores are wrong together as much as they stand together. Noise
whose covariance between models is proportional to that of ``f`` makes each model's scores speak of
that model alone. (With noise taken as independent, 180 scores that lean the same way moved whole
families, and made rankings worse.)

Whether scores count at all is a question of its own. Leaving out one task at a time gives their
gain in ranking and its standard error; the posterior with scores and the one without are mixed by
it (:func:`.fallback.trust`). A score that the history never tested is worth what the shipped set
says (:mod:`.shipped`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stockpot.ranking.history.table import Array, Mask
from stockpot.ranking.posterior.covariance import Profiles, Rows
from stockpot.ranking.posterior.fallback import Trust, trust
from stockpot.ranking.posterior.forecast import own_variance
from stockpot.ranking.posterior.learning import merit
from stockpot.ranking.posterior.settings import PosteriorSettings

_LEAST_MODELS, _LEAST_TASKS = 5, 3
_LEAST_GAIN, _LEAST_NOISE = 0.02, 0.05
_CLIP = 3.0
_USUAL = 5.0  # the weight, in models, of what is known of a score's spread elsewhere


@dataclass(frozen=True)
class Sensor:
    """What one score is worth. ``spread``: its usual standard deviation within a pool, nan where
    unknown; ``used`` is false where it says nothing; ``tasks``: on how many it was tested."""

    name: str
    gain: float
    repeats: float
    spread: float
    used: bool
    reason: str
    tasks: int = 0


@dataclass(frozen=True)
class Untrained:
    """What networks reach that nobody has trained before: their mean lies ``gap`` (+- ``spread``)
    below that of the others, in units of what those spread; on ``best`` of ``tasks`` was one the
    best of its pool."""

    gap: float = 0.0
    spread: float = 1.0
    best: int = 0
    tasks: int = 0

    @property
    def doubt(self) -> float:
        """Chance that it makes no difference on a new task (Jeffreys' estimate)."""
        return (self.best + 0.5) / (self.tasks + 1.0)


@dataclass(frozen=True)
class ScorePanel:
    """Scores that are weighed together.

    ``noise``: ``(S, S)``, nan where two scores were never seen together; ``trust``: the weight of
    the posterior with them against the one without; ``lead``: the score beside which no other was
    seen to add anything: where a model has it, the others do not count; ``untrained``: what is
    known besides, of networks that were never trained.
    """

    sensors: tuple[Sensor, ...] = ()
    noise: Array = field(default_factory=lambda: np.zeros((0, 0)))
    trust: Trust = field(default_factory=Trust)
    lead: str = ""
    untrained: Untrained = field(default_factory=Untrained)

    def __contains__(self, name: str) -> bool:
        return any(each.name == name for each in self.sensors)

    def chosen(self, names: Sequence[str]) -> ScorePanel:
        """The panel of some of its scores, in their order."""
        index = [i for i, each in enumerate(self.sensors) if each.name in names]
        noise = self.noise[np.ix_(index, index)]
        return replace(self, sensors=tuple(self.sensors[i] for i in index), noise=noise)

    def with_others(self, other: ScorePanel) -> ScorePanel:
        """With those scores of another panel that this one lacks."""
        more = other.chosen([s.name for s in other.sensors if s.name not in self])
        size = len(self.sensors)
        noise = np.full((size + len(more.sensors),) * 2, np.nan)
        noise[:size, :size], noise[size:, size:] = self.noise, more.noise
        lead = self.lead if self.sensors else other.lead
        return replace(self, sensors=(*self.sensors, *more.sensors), noise=noise, lead=lead)


@dataclass(frozen=True)
class Voice:
    """What a pool's scores say of f. ``rows``: ``(k,)`` models; ``news``: ``(k,)``, f as the scores
    alone have it; ``noise``: ``(k,)``, its variance; ``shares``: score -> ``(k,)``, its part in the
    news."""

    rows: Rows
    news: Array
    noise: Array
    shares: Mapping[str, Array]

    def given(self, expected: Array, left: Array) -> tuple[Array, Array]:
        """``(k,)`` each: by how much f moves from ``expected``, what share of its variance ``left``
        goes. The scores are centred, so only differences within the pool move."""
        residual = self.news - expected
        share = left / (left + self.noise)
        return np.asarray(share * (residual - residual.mean())), np.asarray(share)


@dataclass(frozen=True)
class ScoredTask:
    """One score on one task of the history: rows, ``h``, ``f`` and ``x`` of (n,) models."""

    models: Rows
    mean: Array
    news: Array
    score: Array


ScoredTasks = Mapping[int, ScoredTask]


def learn_panel(
    scores: Mapping[str, Array],
    rows: Array,
    known: Mask,
    settings: PosteriorSettings,
    reliability: Array,
    elsewhere: float = float("nan"),
) -> ScorePanel:
    """What ``scores`` are worth, of those that were computed on enough tasks of the history.

    ``scores``, ``rows`` (normal), ``known``: ``(N, T)``. ``elsewhere``: the gain in ranking by
    scores in the shipped set, which counts as one task more.
    """
    scaled = settings.scale(rows)
    parts: dict[str, ScoredTasks] = {}
    sensors = {}
    for name, values in scores.items():
        both = known & np.isfinite(values)
        tasks = np.flatnonzero(both.sum(axis=0) >= _LEAST_MODELS)
        if len(tasks) < _LEAST_TASKS:
            continue
        spread = float(np.median([values[both[:, task], task].std() for task in tasks]))
        parts[name] = {
            int(task): _part(scaled, values, np.flatnonzero(both[:, task]), int(task), spread)
            for task in tasks
        }
        sensors[name] = sensor_of(name, list(parts[name].values()), spread)
    panel = panel_of(parts, sensors, scaled.shape)
    if panel.sensors:
        gains = _gains(panel, parts, Profiles(scaled, reliability), settings, scaled)
        shipped = [elsewhere] if np.isfinite(elsewhere) else []
        panel = replace(panel, trust=trust(np.array([*gains, *shipped])))
    return panel.with_others(silent(sensors.values()))


def panel_of(
    parts: Mapping[str, ScoredTasks], sensors: Mapping[str, Sensor], shape: tuple[int, ...]
) -> ScorePanel:
    """The panel of those scores that say something, of ``shape`` models and tasks."""
    used = [each for each in sensors.values() if each.used]
    return ScorePanel(tuple(used), _covariance([parts[each.name] for each in used], shape))


def silent(sensors: Iterable[Sensor]) -> ScorePanel:
    """The panel of those that were tested and say nothing: known, so that nobody assumes more."""
    own = tuple(each for each in sensors if not each.used)
    return ScorePanel(own, np.eye(len(own)))


def _part(scaled: Array, values: Array, models: Rows, task: int, spread: float) -> ScoredTask:
    mean = np.delete(scaled[models], task, axis=1).mean(axis=1)
    news = scaled[models, task] - mean
    column = standard(values[models, task], spread)
    return ScoredTask(models, mean - mean.mean(), news - news.mean(), column)


def sensor_of(name: str, parts: Sequence[ScoredTask], spread: float) -> Sensor:
    """What one score is worth, from all tasks where it was tested."""
    repeats, gain = _fit(parts)
    own = [
        float(part.news @ (part.score - repeats * part.mean))
        / max(float(part.news @ part.news), 1e-9)
        for part in parts
    ]
    error = float(np.std(own, ddof=1) / np.sqrt(len(own)))
    shrunk = gain * max(0.0, 1.0 - (error / gain) ** 2) if gain > 0 else 0.0
    used = shrunk >= _LEAST_GAIN
    reason = f"gain {gain:.2f} +- {error:.2f} over {len(parts)} tasks"
    if not used:
        shrunk, reason = 0.0, f"says nothing beyond history ({reason})"
    return Sensor(name, shrunk, repeats, spread, used, reason, len(parts))


def _fit(parts: Sequence[ScoredTask]) -> tuple[float, float]:
    """beta and g."""
    mean, news, score = (
        np.concatenate([getattr(part, each) for part in parts])
        for each in ("mean", "news", "score")
    )
    solution, *_ = np.linalg.lstsq(np.stack([mean, news], axis=1), score, rcond=None)
    return float(solution[0]), float(solution[1])


def _covariance(parts: Sequence[ScoredTasks], shape: tuple[int, ...]) -> Array:
    """``(S, S)``: Sigma, over the models and tasks that two scores share."""
    errors = np.full((len(parts), *shape), np.nan)
    for error, own in zip(errors, parts, strict=True):
        repeats, gain = _fit(list(own.values()))
        for task, part in own.items():
            error[part.models, task] = part.score - repeats * part.mean - gain * part.news
    flat = errors.reshape(len(parts), int(np.prod(shape)))
    both = np.isfinite(flat).astype(np.float64)
    filled, count = np.nan_to_num(flat), both @ both.T
    noise = np.where(count > 0, filled @ filled.T / np.maximum(count, 1.0), np.nan)
    noise[np.diag_indices_from(noise)] = np.maximum(noise.diagonal(), _LEAST_NOISE)
    return noise


def _gains(
    panel: ScorePanel,
    parts: Mapping[str, ScoredTasks],
    profiles: Profiles,
    settings: PosteriorSettings,
    scaled: Array,
) -> list[float]:
    """Per task: how much the merit of the ranking changes when the scores are used, all that is
    known of them learnt from the other tasks."""
    gains = []
    for task in sorted({task for sensor in panel.sensors for task in parts[sensor.name]}):
        fitted, columns = [], {}
        for sensor in panel.sensors:
            own = parts[sensor.name]
            shrink = sensor.gain / _fit(list(own.values()))[1]
            repeats, gain = _fit([part for other, part in own.items() if other != task])
            fitted.append(replace(sensor, repeats=repeats, gain=max(gain * shrink, 0.0)))
            if task in own:
                columns[sensor.name] = np.full(len(scaled), np.nan)
                columns[sensor.name][own[task].models] = own[task].score
        shared = profiles.shared(np.empty(0, dtype=np.int64), without=task)
        variance = shared.variances(profiles.own(shared), settings.general, settings.likeness)
        rows = np.flatnonzero(np.any([np.isfinite(c) for c in columns.values()], axis=0))
        voice = _voice(replace(panel, sensors=tuple(fitted)), columns, shared.mean, rows)
        shift, _ = voice.given(np.zeros(len(rows)), own_variance(variance, shared.variance)[rows])
        places = shared.mean[rows] + np.stack([np.zeros(len(rows)), shift])
        before, after = merit(scaled[rows, task], places)
        gains.append(float(after - before))
    return gains


def standard(column: Array, spread: float) -> Array:
    """``(N,)`` with nan: scores of one pool, centred, in units of their spread.

    The spread of a small pool is drawn towards the usual one, so that a gap counts for what it is:
    a tenth of what is usual does not become large because the pool has no larger one.
    """
    known = column[np.isfinite(column)]
    variance = float(known.var())
    if np.isfinite(spread):
        variance = (len(known) * variance + _USUAL * spread**2) / (len(known) + _USUAL)
    centred = (column - known.mean()) / max(float(np.sqrt(variance)), 1e-12)
    return np.asarray(np.clip(centred, -_CLIP, _CLIP), dtype=np.float64)


def observe(panel: ScorePanel, scores: Mapping[str, Array], mean: Array) -> Voice | None:
    """What scores of the new task, ``(N,)`` each with nan, say; None where they say nothing."""
    columns = {
        each.name: standard(scores[each.name], each.spread)
        for each in panel.sensors
        if each.used and np.isfinite(scores[each.name]).sum() >= 2
    }
    if not columns:
        return None
    rows = np.flatnonzero(np.any([np.isfinite(column) for column in columns.values()], axis=0))
    return _voice(panel.chosen(list(columns)), columns, mean, rows)


def _voice(panel: ScorePanel, columns: Mapping[str, Array], mean: Array, rows: Rows) -> Voice:
    """All scores of a row as one (generalised least squares)."""
    names = [each.name for each in panel.sensors]
    table = np.stack([columns.get(name, np.full(len(mean), np.nan)) for name in names])
    known = np.isfinite(table[:, rows])
    gain = np.array([each.gain for each in panel.sensors])
    middle = np.array([mean[np.isfinite(own)].mean() if name in columns else 0.0
                       for name, own in zip(names, table, strict=True)])  # fmt: skip
    repeats = np.array([each.repeats for each in panel.sensors])
    residual = table[:, rows] - repeats[:, None] * (mean[rows] - middle[:, None])
    noise = _complete(panel.noise, table)
    parts, variance = np.zeros((len(names), len(rows))), np.full(len(rows), np.inf)
    lead = np.array([name == panel.lead for name in names]) & (gain > 0)
    for pattern in np.unique(known, axis=1).T:
        counted = pattern & (lead if (pattern & lead).any() else gain > 0)
        index = np.flatnonzero(counted)
        if len(index):
            here = np.flatnonzero((known == pattern[:, None]).all(axis=0))
            weights = np.linalg.solve(noise[np.ix_(index, index)], gain[index])
            precision = max(float(weights @ gain[index]), 1e-9)
            parts[np.ix_(index, here)] = (
                weights[:, None] * residual[np.ix_(index, here)] / precision
            )
            variance[here] = 1.0 / precision
    return Voice(rows, parts.sum(axis=0), variance, dict(zip(names, parts, strict=True)))


def _complete(noise: Array, table: Array) -> Array:
    """Sigma without gaps: two scores that were never seen together share as much of their noise as
    they agree on this pool. Made positive definite."""
    filled = noise.copy()
    deviation = np.sqrt(noise.diagonal())
    for i, j in zip(*np.nonzero(np.isnan(noise)), strict=True):
        both = np.isfinite(table[i]) & np.isfinite(table[j])
        first, second = table[i, both], table[j, both]
        agreement = 1.0
        if len(first) >= 3 and first.std() > 1e-9 and second.std() > 1e-9:
            agreement = max(float(np.corrcoef(first, second)[0, 1]), 0.0)
        filled[i, j] = agreement * deviation[i] * deviation[j]
    values, vectors = np.linalg.eigh((filled + filled.T) / 2.0)
    return np.asarray((vectors * np.maximum(values, _LEAST_NOISE / 2.0)) @ vectors.T)
