"""Transferability scores as noisy observations, with a gain learnt on the history.

The normal score ``x`` of a transferability score within a task is taken to be

    x = beta h + g f + e,   var e = tau^2,

``h``: the models' mean over other tasks (what the score merely repeats), ``f``: how the truth
deviates from it (what is news). ``beta``, ``g``, ``tau^2`` come from pooled least squares over the
tasks for which both the score and the truth are known, each task predicted from the others; ``g``
is shrunk by what its scatter over tasks explains (positive-part James-Stein). A score is switched
off if, leaving out one task at a time, it does not make the ranking better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stockpot.ranking.history.table import Array, Mask, normal_scores
from stockpot.ranking.posterior.condition import Observations, condition, no_observations
from stockpot.ranking.posterior.covariance import Profiles, Rows
from stockpot.ranking.posterior.settings import PosteriorSettings

# What is assumed of a score that was never computed on a task of the history.
_GAIN, _REPEATS, _NOISE = 0.4, 0.4, 0.8
_LEAST_MODELS, _LEAST_TASKS, _MOST_MODELS = 5, 3, 300


@dataclass(frozen=True)
class Sensor:
    """What a transferability score is worth. ``used`` is false where it does not help."""

    name: str
    gain: float
    repeats: float
    noise: float
    used: bool
    reason: str


def assumed(name: str) -> Sensor:
    """A score without a record on this history."""
    return Sensor(
        name,
        _GAIN,
        _REPEATS,
        _NOISE,
        True,
        f"never tested on this history: a gain of {_GAIN:g} is assumed",
    )


def learn_sensor(
    name: str,
    scores: Array,
    rows: Array,
    known: Mask,
    settings: PosteriorSettings,
    reliability: Array,
) -> Sensor:
    """What score ``name`` is worth. ``scores``, ``rows`` (normal), ``known``: ``(N, T)``."""
    both = known & np.isfinite(scores)
    tasks = np.flatnonzero(both.sum(axis=0) >= _LEAST_MODELS)
    if len(tasks) < _LEAST_TASKS:
        return assumed(name)
    scaled = settings.scale(rows)
    profiles = Profiles(scaled, reliability)
    total = scaled.sum(axis=1)
    parts = []
    for task in tasks:
        models = np.flatnonzero(both[:, task])
        mean = (total - scaled[:, task])[models] / max(scaled.shape[1] - 1, 1)
        news = scaled[models, task] - mean
        score = normal_scores(scores[models, task][:, None])[:, 0]
        parts.append((mean - mean.mean(), news - news.mean(), score))
    repeats, gain, noise = _fit(parts)
    each = np.array([float(f @ (x - repeats * h)) / max(float(f @ f), 1e-9) for h, f, x in parts])
    error = float(each.std(ddof=1) / np.sqrt(len(each)))
    shrunk = gain * max(0.0, 1.0 - (error / gain) ** 2) if gain > 0 else 0.0
    if shrunk < 0.02:
        return Sensor(
            name,
            0.0,
            repeats,
            noise,
            False,
            f"says nothing beyond history (gain {gain:.2f} +- {error:.2f} over {len(tasks)} tasks)",
        )
    changes = [
        _change(profiles, settings, int(task), np.flatnonzero(both[:, task]), scores, scaled, other)
        for index, task in enumerate(tasks)
        for other in [_without(parts, index, shrunk / gain)]
    ]
    change = float(np.mean(changes))
    words = f"ranking {change:+.3f} by leave-one-task-out over {len(tasks)} tasks"
    return Sensor(
        name,
        shrunk,
        repeats,
        noise,
        change > 0.0,
        f"gain {shrunk:.2f}, {words}" if change > 0.0 else f"does not help: {words}",
    )


def _fit(parts: list[tuple[Array, Array, Array]]) -> tuple[float, float, float]:
    mean, news, score = (np.concatenate([part[i] for part in parts]) for i in range(3))
    design = np.stack([mean, news], axis=1)
    solution, *_ = np.linalg.lstsq(design, score, rcond=None)
    noise = float(((score - design @ solution) ** 2).mean())
    return float(solution[0]), float(solution[1]), max(noise, 0.05)


def _without(
    parts: list[tuple[Array, Array, Array]], index: int, shrink: float
) -> tuple[float, float, float]:
    repeats, gain, noise = _fit(parts[:index] + parts[index + 1 :])
    return repeats, gain * shrink, noise


def _change(
    profiles: Profiles,
    settings: PosteriorSettings,
    task: int,
    models: Rows,
    scores: Array,
    scaled: Array,
    sensor: tuple[float, float, float],
) -> float:
    """How much the correlation with the truth of a task changes when the score is used."""
    models = models[:_MOST_MODELS]
    shared = profiles.shared(models, without=task)
    repeats, gain, noise = sensor
    mean = shared.mean[models]
    score = normal_scores(scores[models, task][:, None])[:, 0]
    residual = score - repeats * (mean - mean.mean())
    seen = Observations(models, residual, np.full(len(models), gain), np.full(len(models), noise))
    found = condition(shared.covariance(settings.general), seen)
    truth = scaled[models, task]
    before = _correlation(mean, truth)
    return _correlation(mean + found.shift[models], truth) - before


def _correlation(first: Array, second: Array) -> float:
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / norm if norm > 1e-12 else 0.0


def observe(
    sensors: Mapping[str, Sensor],
    scores: Mapping[str, Array],
    mean: Array,
    anchored: Mask,
) -> tuple[Observations, list[str]]:
    """Observations from scores of the new task, ``(N,)`` each with nan, and whose each one is.

    Scores that agree with each other count less than as many independent ones: the noise of each
    grows by the sum of its positive correlations with the others. Anchored models need none.
    """
    columns = {
        name: normal_scores(np.where(np.isfinite(x), x, np.nan)[:, None])[:, 0]
        for name, x in scores.items()
        if sensors[name].used and np.isfinite(x).sum() >= 2
    }
    seen, names = no_observations(), []
    for name, column in columns.items():
        sensor = sensors[name]
        rows = np.flatnonzero(np.isfinite(column) & ~anchored)
        if len(rows) == 0:
            continue
        there = mean[np.isfinite(column)]
        residual = column[rows] - sensor.repeats * (mean[rows] - there.mean())
        agreement = sum(
            max(0.0, _agreement(column, other)) for key, other in columns.items() if key != name
        )
        seen = seen.joined(
            Observations(
                rows,
                residual,
                np.full(len(rows), sensor.gain),
                np.full(len(rows), sensor.noise * (1.0 + agreement)),
            )
        )
        names += [name] * len(rows)
    return seen, names


def _agreement(first: Array, second: Array) -> float:
    both = np.isfinite(first) & np.isfinite(second)
    return _correlation(first[both], second[both]) if both.sum() >= 3 else 1.0
