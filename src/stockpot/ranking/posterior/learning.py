"""Learn the posterior's settings from the history alone, leaving out one task at a time.

Each task of the history is played as if it were new: some of its results are revealed as anchors,
the rest is predicted from the other tasks, and the prediction is compared with what happened.

- Cut points of the scale, noise of anchors, the strength of the general order and how much a task
  is like single old ones come from a grid.
  A setting's merit is the correlation between Savage scores (expected exponential order
  statistics) of predicted and of true ranks, which like the weighted Kendall tau count the top of
  the list most. Settings are averaged with weights ``exp(merit * tasks / 0.7)``: with a
  handful of tasks the best of a grid is mostly luck.
- At that average the mixture's members are weighed against mean rank (:mod:`.fallback`).
- Then, at that average, one trial a task, the quantiles of standardised errors give the width of
  intervals (of ranks: where on the scale the true rank lies among what is predicted), and the
  likelihood of the models that really were best gives the sharpness of P(best): a mixture over
  factors on the deviations, so that a task may be as expected, or full of surprises.

Sources: Savage (1956) for the scores; Vigna (2015) for the weighted tau.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from stockpot.ranking.history.table import Array, Mask
from stockpot.ranking.posterior.condition import task_weights
from stockpot.ranking.posterior.covariance import Profiles, Shared
from stockpot.ranking.posterior.fallback import NOTHING, SHARES, MemberWeights, Rivals, trust
from stockpot.ranking.posterior.forecast import (
    MEASURED,
    Forecast,
    deviations,
    forecast,
    residuals,
)
from stockpot.ranking.posterior.marginals import GaussianOutcomes, probability_best
from stockpot.ranking.posterior.scale import (
    CUTS,
    MonotoneScale,
    cut,
    metric_of,
    metric_slope,
    typical_interval,
)
from stockpot.ranking.posterior.settings import PosteriorSettings
from stockpot.ranking.posterior.trials import Trial, draw_trials

NOISES = np.array([0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
GENERALS = (0.0, 1.0)
LIKENESSES = (0.0, 0.5, 0.85)
SHARPNESS = (0.35, 0.7, 1.4, 2.8, 5.6, 11.2)
BUCKETS = (0, 5, 20)
_TEMPERATURE = 0.7
_MODELS, _TASKS = 300, 150
_WIDTH_TASKS, _CURVES = 72, 24
_PRIOR_TASKS, _LEAST_WEIGHT, _ROUNDS = 0.5, 0.01, 100
_LEAST_MODELS, _LEAST_TASKS = 6, 3


@dataclass(frozen=True)
class _Point:
    """A point of the grid of settings; ``cut`` counts :data:`CUTS`."""

    cut: int
    general: float
    likeness: float
    noise: float


def bucket(anchors: int) -> int:
    """The number of anchors, of those that were learnt, that stands for ``anchors``."""
    if anchors == 0:
        return 0
    return 5 if anchors <= 10 else 20


def learn(
    rows: Array, plain: Array, known: Mask, values: Array, reliability: Array
) -> Mapping[int, PosteriorSettings]:
    """Settings for each of :data:`BUCKETS` anchors, learnt when they are first asked for.

    ``rows``: ``(N, T)`` normal scores, complete; ``plain``: likewise, as they were measured, where
    ``rows`` were drawn towards facts; ``known``: ``(N, T)``, which of them are results;
    ``values``: ``(N, T)``, the results themselves, higher is better. With fewer than
    :data:`_LEAST_TASKS` tasks of :data:`_LEAST_MODELS` models the defaults stay. Deterministic.
    """
    random = np.random.default_rng(20240403)
    usable = np.flatnonzero(known.any(axis=1))
    if len(usable) > _MODELS:
        usable = np.sort(random.choice(usable, _MODELS, replace=False))
    rows, plain, known, values = rows[usable], plain[usable], known[usable], values[usable]
    tasks = np.flatnonzero(known.sum(axis=0) >= _LEAST_MODELS)
    if len(tasks) < _LEAST_TASKS:
        return {number: PosteriorSettings() for number in BUCKETS}
    if len(tasks) > _TASKS:
        tasks = np.sort(random.choice(tasks, _TASKS, replace=False))
    trials = {number: draw_trials(known, tasks, number, random) for number in BUCKETS}
    return _Lessons(rows, Rivals(plain), values, reliability[usable], trials)


class _Lessons(Mapping[int, PosteriorSettings]):
    """Number of anchors -> what was learnt for it."""

    def __init__(
        self,
        rows: Array,
        rivals: Rivals,
        values: Array,
        reliability: Array,
        trials: dict[int, list[Trial]],
    ) -> None:
        self._rows, self._values, self._reliability = rows, values, reliability
        self._rivals = rivals
        self._trials = trials
        self._profiles = [Profiles(cut(i)(rows), reliability) for i in range(len(CUTS))]
        self._learnt: dict[int, PosteriorSettings] = {}

    def __getitem__(self, number: int) -> PosteriorSettings:
        if number not in self._learnt:
            from threadpoolctl import threadpool_limits

            with threadpool_limits(1, "blas"):
                self._learnt[number] = self._learn(self._trials[number])
        return self._learnt[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    def _learn(self, trials: list[Trial]) -> PosteriorSettings:
        grid, merits = _grid(self._profiles, self._values, trials)
        settings = _average(grid, _weights(merits))
        profiles = Profiles(settings.scale(self._rows), self._reliability)
        played = [
            forecast(
                settings,
                profiles,
                self._rivals,
                trial.anchors,
                self._values[trial.anchors, trial.task],
                without=trial.task,
            )
            for trial in trials
        ]
        settings = _blend(settings, played, trials, self._values)
        return _calibrate(settings, played, settings.scale(self._rows), trials, self._values)


def _grid(
    profiles: list[Profiles], values: Array, trials: list[Trial]
) -> tuple[list[_Point], Array]:
    """The grid and ``(tasks, points)`` merits."""
    grid = [
        _Point(c, a, rho, float(n))
        for c in range(len(CUTS))
        for a in GENERALS
        for rho in LIKENESSES
        for n in NOISES
    ]
    merits: dict[int, list[Array]] = {}
    for trial in trials:
        truth = values[trial.rest, trial.task]
        predictions = []
        for index, own in enumerate(profiles):
            shared = own.shared(trial.anchors, without=trial.task)
            predictions.append(_predictions(shared, cut(index), trial, values)[:, trial.rest])
        reached = merit(truth, np.concatenate(predictions))
        # Without anchors all points of a cut predict the same.
        merits.setdefault(trial.task, []).append(np.repeat(reached, len(grid) // len(reached)))
    return grid, np.array([np.mean(m, axis=0) for m in merits.values()])


def _predictions(shared: Shared, scale: MonotoneScale, trial: Trial, values: Array) -> Array:
    """``(points of a cut, N)``, or ``(1, N)`` without anchors. One eigendecomposition serves all
    noises."""
    if len(trial.anchors) == 0:
        return shared.mean[None]
    residual = residuals(shared, scale, trial.anchors, values[trial.anchors, trial.task])
    old = shared.profiles[trial.anchors]
    noises = NOISES[:, None] * shared.variance
    found = []
    for general in GENERALS:
        for likeness in LIKENESSES:
            covariance = shared.covariance(general, likeness)
            inner = covariance[trial.anchors]
            eigenvalues, vectors = np.linalg.eigh((inner + inner.T) / 2.0)
            spread = np.maximum(eigenvalues, 0.0) + noises
            turned = vectors.T @ residual
            mean = shared.mean
            if likeness:
                missed = turned[:, None] - likeness * (vectors.T @ old)
                weights = task_weights((1.0 / spread) @ missed**2)
                turned = weights @ missed.T
                mean = mean + likeness * weights @ shared.profiles.T
            found.append(mean + (turned / spread) @ (covariance @ vectors).T)
    return np.concatenate(found)


def merit(truth: Array, predictions: Array) -> Array:
    """Correlation between Savage scores of true ranks and of those of each row of predictions."""
    from scipy.stats import rankdata

    count = len(truth)
    savage = -np.log1p(-(np.arange(count) + 0.5) / count)
    savage -= savage.mean()
    goal = -np.log1p(-(rankdata(truth) - 0.5) / count)
    goal -= goal.mean()
    predicted = np.empty(predictions.shape)
    np.put_along_axis(
        predicted, predictions.argsort(axis=1), np.broadcast_to(savage, predictions.shape), axis=1
    )
    norm = np.sqrt((goal @ goal) * (savage @ savage))
    return np.asarray(predicted @ goal / max(float(norm), 1e-12), dtype=np.float64)


def _weights(merits: Array) -> Array:
    """Weights of the grid's points from their merits ``(tasks, points)``."""
    mean = merits.mean(axis=0)
    weights = np.exp((mean - mean.max()) * len(merits) / _TEMPERATURE)
    return np.asarray(weights / weights.sum())


def _average(grid: list[_Point], weights: Array) -> PosteriorSettings:
    cuts = [float(weights[[p.cut == index for p in grid]].sum()) for index in range(len(CUTS))]
    return PosteriorSettings(
        scale=MonotoneScale(tuple(cuts)),
        noise=float(np.exp(weights @ np.log([p.noise for p in grid]))),
        general=float(weights @ [p.general for p in grid]),
        likeness=float(weights @ [p.likeness for p in grid]),
    )


def _blend(
    settings: PosteriorSettings, played: list[Forecast], trials: list[Trial], values: Array
) -> PosteriorSettings:
    """Weights of the mixture's members, and the merit that it has with them."""

    def merits(blends: list[MemberWeights]) -> Array:
        found: dict[int, list[Array]] = {}
        for own, trial in zip(played, trials, strict=True):
            places = np.stack([own.location(each)[trial.rest] for each in blends])
            truth = values[trial.rest, trial.task]
            found.setdefault(trial.task, []).append(merit(truth, places))
        return np.array([np.mean(part, axis=0) for part in found.values()])

    shares = merits([MemberWeights(share) for share in SHARES])
    best = int(shares.mean(axis=0).argmax())
    like = float(SHARES[best]) * trust(shares[:, best] - shares[:, 0]).weight
    both = merits([MemberWeights(trust=NOTHING), MemberWeights(like)])
    gained = trust(both[:, 1] - both[:, 0])
    blend = MemberWeights(like, replace(gained, weight=float(_weights(both)[1])))
    return replace(
        settings,
        blend=blend,
        merit=float(merits([blend]).mean()),
        merit_without=float(both[:, 0].mean()),
        tasks=len(both),
    )


def _calibrate(
    settings: PosteriorSettings,
    played: list[Forecast],
    truth: Array,
    trials: list[Trial],
    values: Array,
) -> PosteriorSettings:
    """Widths and sharpness at these settings. ``truth``: ``(N, T)``, rows on the scale."""
    errors, chances, widths = [], [], []
    in_units: list[Array] = []
    pairs = list(zip(trials, played, strict=True))
    first = list({trial.task: (trial, own) for trial, own in reversed(pairs)}.values())[::-1]
    curves = [trial for trial, _ in first[:_CURVES]]
    for count, (trial, own) in enumerate(first[:_WIDTH_TASKS]):
        mean = own.location(settings.blend)
        deviation = deviations(own.variance(settings.blend), own.shared.variance)[trial.rest]
        centred, outcome = mean[trial.rest], values[trial.rest, trial.task]
        errors.append(_rank_errors(centred, deviation, own.placed, trial, values))
        in_units += _metric_errors(own.placed, centred, deviation, trial, values)
        if not len(trial.anchors) and count < _CURVES:
            widths += _typical_errors(trial, curves, truth, values, centred, deviation)
        best = outcome == outcome.max()
        chances.append(
            [probability_best(centred, deviation * s, 32)[best].sum() for s in SHARPNESS]
        )
    low, high = np.quantile(np.concatenate(errors), [0.05, 0.95])
    metric_low, metric_high = PosteriorSettings.metric_low, PosteriorSettings.metric_high
    if in_units:
        metric_low, metric_high = np.quantile(np.concatenate(in_units), [0.05, 0.95])
    return replace(
        settings,
        low=min(float(low), -0.2),
        high=max(float(high), 0.2),
        metric_low=min(float(metric_low), -0.2),
        metric_high=max(float(metric_high), 0.2),
        metric_width=float(np.quantile(np.concatenate(widths), 0.9)) if widths else 1.0,
        sharpness=_mixture(np.array(chances)),
    )


def _mixture(chances: Array) -> tuple[tuple[float, float], ...]:
    """Weights of :data:`SHARPNESS` from ``(tasks, factors)``, the chance that each gave to the
    models that really were best: expectation maximisation, each factor half a task to begin with.
    """
    weights = np.full(len(SHARPNESS), 1.0 / len(SHARPNESS))
    for _ in range(_ROUNDS):
        shares = weights * (chances + 1e-9)
        shares /= shares.sum(axis=1, keepdims=True)
        weights = shares.sum(axis=0) + _PRIOR_TASKS
        weights /= weights.sum()
    kept = weights >= _LEAST_WEIGHT
    total = float(weights[kept].sum())
    pairs = zip(SHARPNESS, weights.tolist(), kept, strict=True)
    return tuple((factor, weight / total) for factor, weight, keep in pairs if keep)


def _rank_errors(
    mean: Array, deviation: Array, placed: Array, trial: Trial, values: Array
) -> Array:
    """Errors of the ranks of the rest, as the places on the scale that have the true ranks."""
    from scipy.stats import rankdata

    known = np.concatenate([trial.rest, trial.anchors])
    ranks = rankdata(-values[known, trial.task])[: len(trial.rest)]
    pool = GaussianOutcomes(
        np.concatenate([mean, placed]),
        np.concatenate([deviation, np.full(len(placed), MEASURED)]),
    )
    low, high = (mean - 4.0 * deviation).min(), (mean + 4.0 * deviation).max()
    grid = np.linspace(float(high), float(low), 128)
    there = np.interp(ranks, 0.5 + pool.above(grid), grid)
    return np.asarray((there - mean) / deviation)


def _typical_errors(
    trial: Trial,
    others: list[Trial],
    truth: Array,
    values: Array,
    mean: Array,
    deviation: Array,
) -> list[Array]:
    """Errors of the metric as other tasks tell it, in half-widths of its interval."""
    columns = [
        (values[known, each.task], truth[known, each.task])
        for each in others
        if each.task != trial.task
        for known in [np.concatenate([each.rest, each.anchors])]
    ]
    expected, low, high = typical_interval(columns, mean, deviation)
    off = values[trial.rest, trial.task] - expected
    half = np.where(off > 0, high - expected, expected - low)
    usable = np.isfinite(half) & (half > 0)
    return [np.abs(off[usable]) / half[usable]] if usable.any() else []


def _metric_errors(
    placed: Array, mean: Array, deviation: Array, trial: Trial, values: Array
) -> list[Array]:
    """Errors of the expected metric of the rest, in predicted standard deviations."""
    if len(placed) < 3 or float(np.ptp(placed)) <= 1e-9:
        return []
    known = values[trial.anchors, trial.task]
    slope = metric_slope(placed, known)
    expected = metric_of(mean, placed, known)
    return [(values[trial.rest, trial.task] - expected) / (slope * deviation)]
