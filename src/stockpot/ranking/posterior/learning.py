"""Learn the posterior's settings from the history alone, leaving out one task at a time.

Each task of the history is played as if it were new: some of its results are revealed as anchors,
the rest is predicted from the other tasks, and the prediction is compared with what happened.

- Cut points of the scale, noise of anchors and the strength of the general order come from a grid.
  A setting's merit is the correlation of its prediction with the Savage scores (expected
  exponential order statistics) of the true ranks, which like the weighted Kendall tau count the top
  of the list most. Settings are averaged with weights ``exp(merit * tasks / 0.7)``: with a
  handful of tasks the best of a grid is mostly luck.
- Then, at that average, the quantiles of standardised errors give the width of intervals, and the
  log-loss of the model that really was best gives the sharpness of P(best).

Sources: Savage (1956) for the scores; Vigna (2015) for the weighted tau.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from stockpot.ranking.history.table import Array, Mask
from stockpot.ranking.posterior.condition import Observations, condition
from stockpot.ranking.posterior.covariance import Profiles, Rows, Shared
from stockpot.ranking.posterior.marginals import probability_best
from stockpot.ranking.posterior.scale import (
    CUTS,
    Scale,
    cut,
    metric_of,
    metric_slope,
    place_anchors,
)

NOISES = np.array([0.25, 0.5, 1.0, 2.0, 4.0])
GENERALS = (0.0, 0.5, 1.0)
SHARPNESS = (0.7, 1.0, 1.4, 2.0, 3.0, 4.5)
BUCKETS = (0, 5, 20)
_TEMPERATURE = 0.7
_MODELS, _TASKS, _TRIALS, _SHARP_TASKS = 300, 40, 72, 16
_LEAST_MODELS, _LEAST_TASKS = 6, 3


@dataclass(frozen=True)
class Settings:
    """``noise``: variance of an anchor, in units of D; ``general``: strength of the general order;
    ``low``, ``high``: 5 % and 95 % quantiles of errors in predicted standard deviations;
    ``metric_low``, ``metric_high``: likewise of the metric, as the anchors tell its units;
    ``sharpness``: factor on deviations for P(best); ``merit``: correlation with the truth, and
    ``merit_without``: that of the mean over history; ``tasks``: how many it was learnt from."""

    scale: Scale = field(default_factory=Scale)
    noise: float = 1.0
    general: float = 0.5
    low: float = -1.645
    high: float = 1.645
    metric_low: float = -2.5
    metric_high: float = 2.5
    sharpness: float = 1.0
    merit: float = float("nan")
    merit_without: float = float("nan")
    tasks: int = 0


@dataclass(frozen=True)
class _Trial:
    """A task left out, models revealed, models to predict."""

    task: int
    anchors: Rows
    rest: Rows


def bucket(anchors: int) -> int:
    """The number of anchors, of those that were learnt, that stands for ``anchors``."""
    if anchors == 0:
        return 0
    return 5 if anchors <= 10 else 20


def learn(rows: Array, known: Mask, values: Array, reliability: Array) -> dict[int, Settings]:
    """Settings for each of :data:`BUCKETS` anchors.

    ``rows``: ``(N, T)`` normal scores, complete; ``known``: ``(N, T)``, which of them are results;
    ``values``: ``(N, T)``, the results themselves, higher is better. With fewer than
    :data:`_LEAST_TASKS` tasks of :data:`_LEAST_MODELS` models the defaults stay. Deterministic.
    """
    random = np.random.default_rng(20240403)
    usable = np.flatnonzero(known.any(axis=1))
    if len(usable) > _MODELS:
        usable = np.sort(random.choice(usable, _MODELS, replace=False))
    rows, known, values = rows[usable], known[usable], values[usable]
    tasks = np.flatnonzero(known.sum(axis=0) >= _LEAST_MODELS)
    if len(tasks) < _LEAST_TASKS:
        return {number: Settings() for number in BUCKETS}
    if len(tasks) > _TASKS:
        tasks = np.sort(random.choice(tasks, _TASKS, replace=False))
    profiles = [Profiles(cut(i)(rows), reliability[usable]) for i in range(len(CUTS))]
    learnt = {}
    for number in BUCKETS:
        trials = _trials(known, tasks, number, random)
        grid, merits, without = _grid(profiles, values, trials)
        weights = np.exp((merits - merits.max()) * len(tasks) / _TEMPERATURE)
        settings = _average(grid, weights / weights.sum())
        mean = Profiles(settings.scale(rows), reliability[usable])
        learnt[number] = _calibrate(
            settings, mean, rows, values, trials, float(merits.max()), without, len(tasks)
        )
    return learnt


def _trials(known: Mask, tasks: Rows, anchors: int, random: np.random.Generator) -> list[_Trial]:
    repeats = 1 if anchors == 0 else max(1, -(-_TRIALS // len(tasks)))
    trials = []
    for task in tasks:
        models = np.flatnonzero(known[:, task])
        for _ in range(repeats):
            some = np.sort(random.choice(models, min(anchors, len(models) // 2), replace=False))
            trials.append(_Trial(int(task), some, np.setdiff1d(models, some)))
    return trials


def _grid(
    profiles: list[Profiles], values: Array, trials: list[_Trial]
) -> tuple[list[tuple[int, float, float]], Array, float]:
    """Grid of (cut, general, noise), mean merit of each, and the merit of the plain mean."""
    grid = [(c, a, float(n)) for c in range(len(CUTS)) for a in GENERALS for n in NOISES]
    total = np.zeros(len(grid))
    plain = 0.0
    for trial in trials:
        predictions = []
        for index, own in enumerate(profiles):
            shared = own.shared(trial.anchors, without=trial.task)
            if index == 0:
                plain += float(
                    _merit(values[trial.rest, trial.task], shared.mean[None, trial.rest])[0]
                )
            predictions.append(_predictions(shared, own, cut(index), trial, values))
        rest = np.concatenate(predictions)[:, trial.rest]
        total += _merit(values[trial.rest, trial.task], rest)
    return grid, total / len(trials), plain / len(trials)


def _predictions(
    shared: Shared, profiles: Profiles, scale: Scale, trial: _Trial, values: Array
) -> Array:
    """``(len(GENERALS) * len(NOISES), N)``: one eigendecomposition serves all noises."""
    count = len(GENERALS) * len(NOISES)
    if len(trial.anchors) == 0:
        return np.broadcast_to(shared.mean, (count, len(shared.mean)))
    residual = _residual(shared, scale, trial, values)
    found = []
    for general in GENERALS:
        covariance = shared.base + general * shared.general
        inner = covariance[trial.anchors]
        eigenvalues, vectors = np.linalg.eigh((inner + inner.T) / 2.0)
        turned = vectors.T @ residual
        divided = turned[:, None] / (
            np.maximum(eigenvalues, 0.0)[:, None] + NOISES * shared.variance
        )
        found.append(shared.mean[:, None] + covariance @ (vectors @ divided))
    return np.concatenate(found, axis=1).T


def _residual(shared: Shared, scale: Scale, trial: _Trial, values: Array) -> Array:
    mean = shared.mean[trial.anchors]
    spread = expected_spread(mean, shared)
    placed = place_anchors(values[trial.anchors, trial.task], scale, float(mean.mean()), spread)
    return np.asarray(placed - mean, dtype=np.float64)


def expected_spread(mean: Array, shared: Shared) -> float:
    """Standard deviation to expect of results among models with prior means ``mean`` ``(k,)``.

    The variance of the prior means, drawn towards that of all models (with five models' weight),
    plus D. A sample of the best only spreads less than the pool does.
    """
    drawn = (len(mean) * mean.var() + 5.0 * shared.mean.var()) / (len(mean) + 5.0)
    return float(np.sqrt(drawn + shared.variance))


def _merit(truth: Array, predictions: Array) -> Array:
    """Correlation of each row of ``predictions`` with the Savage scores of the true ranks."""
    from scipy.stats import rankdata

    chance = (rankdata(truth) - 0.5) / len(truth)
    savage = -np.log1p(-chance)
    savage -= savage.mean()
    centred = predictions - predictions.mean(axis=1, keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=1) * (savage @ savage))
    return np.asarray((centred @ savage) / np.maximum(norm, 1e-12), dtype=np.float64)


def _average(grid: list[tuple[int, float, float]], weights: Array) -> Settings:
    cuts = [
        float(sum(w for w, (c, _, _) in zip(weights, grid, strict=True) if c == index))
        for index in range(len(CUTS))
    ]
    general = float(sum(w * a for w, (_, a, _) in zip(weights, grid, strict=True)))
    noise = float(np.exp(sum(w * np.log(n) for w, (_, _, n) in zip(weights, grid, strict=True))))
    return Settings(scale=Scale(tuple(cuts)), noise=noise, general=general)


def _calibrate(
    settings: Settings,
    profiles: Profiles,
    rows: Array,
    values: Array,
    trials: list[_Trial],
    merit: float,
    without: float,
    tasks: int,
) -> Settings:
    truth = settings.scale(rows)
    errors, losses = [], []
    in_units: list[Array] = []
    seen_tasks: set[int] = set()
    for trial in trials:
        shared = profiles.shared(trial.anchors, without=trial.task)
        base, general = profiles.own(shared)
        variance = base + settings.general * general
        mean = shared.mean
        residual = np.empty(0)
        if len(trial.anchors):
            residual = _residual(shared, settings.scale, trial, values)
            seen = Observations(
                trial.anchors,
                residual,
                np.ones(len(trial.anchors)),
                np.full(len(trial.anchors), settings.noise * shared.variance),
            )
            found = condition(shared.base + settings.general * shared.general, seen)
            mean, variance = mean + found.shift, variance - found.reduction
        deviation = deviations(variance, shared.variance)[trial.rest]
        outcome = truth[trial.rest, trial.task]
        centred = mean[trial.rest]
        errors.append((outcome - centred) / deviation)
        in_units += _metric_errors(
            residual + shared.mean[trial.anchors], centred, deviation, trial, values
        )
        if trial.task not in seen_tasks and len(seen_tasks) < _SHARP_TASKS:
            seen_tasks.add(trial.task)
            best = values[trial.rest, trial.task] == values[trial.rest, trial.task].max()
            losses.append(
                [
                    -np.log(probability_best(centred, deviation * s, 64)[best].sum() + 1e-6)
                    for s in SHARPNESS
                ]
            )
    low, high = np.quantile(np.concatenate(errors), [0.05, 0.95])
    sharpness = SHARPNESS[int(np.argmin(np.mean(losses, axis=0)))]
    metric_low, metric_high = Settings.metric_low, Settings.metric_high
    if in_units:
        metric_low, metric_high = np.quantile(np.concatenate(in_units), [0.05, 0.95])
    return replace(
        settings,
        low=min(float(low), -0.2),
        high=max(float(high), 0.2),
        metric_low=min(float(metric_low), -0.2),
        metric_high=max(float(metric_high), 0.2),
        sharpness=sharpness,
        merit=merit,
        merit_without=without,
        tasks=tasks,
    )


def _metric_errors(
    placed: Array, mean: Array, deviation: Array, trial: _Trial, values: Array
) -> list[Array]:
    """Errors of the expected metric of the rest, in predicted standard deviations."""
    if len(placed) < 3 or float(np.ptp(placed)) <= 1e-9:
        return []
    known = values[trial.anchors, trial.task]
    slope = metric_slope(placed, known)
    expected = metric_of(mean, placed, known)
    return [(values[trial.rest, trial.task] - expected) / (slope * deviation)]


def deviations(variance: Array, unit: float) -> Array:
    """Standard deviation of outcomes: what is left of the prior, but no less than a tenth of D.

    The common offset of the pool, D, is in ``variance`` but moves no rank; half of D stands for
    what a single run of a model scatters about its own standing.
    """
    return np.asarray(np.sqrt(np.maximum(variance - unit, 0.1 * unit) + 0.5 * unit))
