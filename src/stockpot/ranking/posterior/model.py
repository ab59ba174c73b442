"""The posterior: history, facts, scores and real fine-tunings of a few models in one Gaussian.

``fit`` learns from a table of results, ``Posterior.for_task`` joins what is known of a new task::

    posterior = fit(table, scores={"logme": values})
    ranking = posterior.for_task(anchors={"resnet50": 0.81}, scores={"logme": {...}})
    ranking.order[:3], ranking.next({"vit": 120.0})[0].model

A model's standing on a new task is its mean over history (drawn towards what its facts say, the
fewer results it has) plus a deviation, Gaussian with the covariance of :mod:`.covariance`; anchors
observe the deviation nearly exactly, scores through a learnt gain (:mod:`.evidence`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from stockpot.errors import InputError
from stockpot.ranking.history.table import Array, Fact, Mask, Table, mean_scores
from stockpot.ranking.posterior.covariance import Profiles
from stockpot.ranking.posterior.evidence import (
    ScorePanel,
    Sensor,
    Voice,
    learn_panel,
    observe,
)
from stockpot.ranking.posterior.fallback import Rivals, Trust
from stockpot.ranking.posterior.forecast import MEASURED, deviations, forecast, own_variance
from stockpot.ranking.posterior.learning import BUCKETS, bucket, learn
from stockpot.ranking.posterior.metadata import Prior, learn_prior
from stockpot.ranking.posterior.result import EvidenceUse, Ranking
from stockpot.ranking.posterior.scale import (
    metric_of,
    metric_slope,
    normal_range,
    possible,
    typical_interval,
)
from stockpot.ranking.posterior.settings import PosteriorSettings
from stockpot.ranking.posterior.shipped import assumed, shipped
from stockpot.ranking.posterior.standings import Metric, Reasons, make_ranking

Facts = Mapping[str, Mapping[str, Fact]]
_WIDEST = 20.0  # an interval so many times wider than a task's range says nothing
_STANDS_OUT = 3.0  # an old task with so many times its share of likeness is worth a word


def fit(
    table: Table,
    metadata: Facts | None = None,
    scores: Mapping[str, Array] | None = None,
    elsewhere: ScorePanel | None = None,
) -> Posterior:
    """Learn from a table of results.

    ``metadata``: facts per model, joined to those of the table. ``scores``: name -> ``(M, T)`` with
    nan, transferability scores of the table's models on its tasks, higher is better; what each is
    worth is learnt from them. ``elsewhere``: what scores are worth that the history never tested;
    default: what the shipped set says. A table without tasks is allowed: then facts and scores
    decide. Deterministic. Raises ``InputError`` on a score of another shape.
    """
    facts: dict[str, dict[str, Fact]] = {m: dict(table.metadata.get(m, {})) for m in table.models}
    for model, more in (metadata or {}).items():
        facts.setdefault(model, {}).update(more)
    for name, values in (scores or {}).items():
        if values.shape != table.values.shape:
            raise InputError(
                f"score '{name}' has shape {values.shape}, the table {table.values.shape}"
            )
    from threadpoolctl import threadpool_limits

    # Thousands of small products: threads would only wait for each other.
    with threadpool_limits(1, "blas"):
        return Posterior(table, facts, scores or {}, shipped() if elsewhere is None else elsewhere)


class Posterior:
    """What the history says; made by :func:`fit`.

    ``settings``: number of anchors (see ``learning.BUCKETS``) -> what was learnt for it;
    ``prior``: what facts say; ``panel``: what scores are worth.
    """

    def __init__(
        self, table: Table, facts: Facts, scores: Mapping[str, Array], elsewhere: ScorePanel
    ) -> None:
        self.table = table
        self.elsewhere = elsewhere
        self.facts = facts
        self._known = np.isfinite(table.scores)
        self._counts = self._known.sum(axis=1)
        self._trust = _trust(table.scores, self._known)
        self.prior = self._learn_prior()
        own = [facts.get(model, {}) for model in table.models]
        self._plain, self._rows = self._complete(table.scores, self._known, own)
        self._reliability = self._reliabilities(self._counts, own)
        self.settings: Mapping[int, PosteriorSettings] = learn(
            self._rows, self._plain, self._known, table.oriented, self._reliability
        )
        self.panel = learn_panel(
            scores,
            self._rows,
            self._known,
            self.settings[0],
            self._reliability,
            elsewhere.trust.gain,
        )
        self._profiles: dict[tuple[int, tuple[str, ...]], tuple[Profiles, Rivals]] = {}

    def for_task(
        self,
        anchors: Mapping[str, float] | None = None,
        scores: Mapping[str, Mapping[str, float]] | None = None,
        candidates: Iterable[str] | None = None,
        *,
        metadata: Facts | None = None,
        untrained: Collection[str] = (),
        lower_is_better: bool = False,
    ) -> Ranking:
        """Rank ``candidates`` (default: all models of the history) for a new task.

        ``anchors``: model -> metric really reached on the new task. ``scores``: name -> model ->
        transferability score on it, higher is better. Both, and ``candidates``, may name models
        that the history has never seen; ``metadata`` holds facts about them. ``untrained``: those
        whose weights are an initialisation's; where nothing was measured of one, here or in the
        history, it stands as far below the others as in the shipped set, and scores only say how
        such networks stand to each other. Raises ``InputError`` on a value that is not finite, or
        no candidates.
        """
        anchors = dict(anchors or {})
        scores = scores or {}
        _check(anchors, scores)
        names = list(dict.fromkeys(self.table.models if candidates is None else candidates))
        if not names:
            raise InputError("there is no model to rank")
        new = tuple(sorted({*names, *anchors} - set(self.table.row)))
        facts = {**self.facts, **(metadata or {})}
        models = [*self.table.models, *new]
        position = {name: index for index, name in enumerate(models)}
        chosen = np.array([position[name] for name in names])
        which = bucket(len(anchors))
        settings = self.settings[which]
        profiles, rivals = self._rows_with(which, new, facts)
        anchored = np.array([position[name] for name in anchors], dtype=np.int64)
        sign = -1.0 if lower_is_better else 1.0
        values = sign * np.array(list(anchors.values()), dtype=np.float64)
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, "blas"):
            return self._rank(
                settings,
                profiles,
                rivals,
                models,
                chosen,
                anchored,
                values,
                scores,
                untrained,
                sign,
            )

    def _rank(
        self,
        settings: PosteriorSettings,
        profiles: Profiles,
        rivals: Rivals,
        models: list[str],
        chosen: np.ndarray[tuple[int], np.dtype[np.int64]],
        anchored: np.ndarray[tuple[int], np.dtype[np.int64]],
        values: Array,
        scores: Mapping[str, Mapping[str, float]],
        untrained: Collection[str],
        sign: float,
    ) -> Ranking:
        own = forecast(settings, profiles, rivals, anchored, values)
        mean, unit, placed = own.shared.mean, own.shared.variance, own.placed
        measured = np.zeros(len(models), dtype=bool)
        measured[anchored] = True
        panel = self._panel(scores)
        columns = {
            name: np.array([given.get(model, np.nan) for model in models], dtype=np.float64)
            for name, given in scores.items()
        }
        raw = self._raw(models, untrained, measured)
        if raw[chosen].all():
            raw[:] = False
        tiers = [np.where(tier, 0.0, np.nan) for tier in (~raw, raw) if tier.any()]
        voices = [
            observe(panel, {name: own + tier for name, own in columns.items()}, mean)
            for tier in tiers
        ]
        location, variance = own.location(settings.blend), own.variance(settings.blend)
        unheard = location.copy()
        moved = settings.blend.weights[2] * own.given.parts
        sources = [models[i] for i in anchored]
        like = location - mean - moved.sum(axis=1)
        for voice in voices:
            if voice is None:
                continue
            # On top: that the covariance of old tasks misleads says nothing against scores.
            rows, counts = voice.rows, panel.trust.weight
            left = own_variance(variance, unit)[rows]
            shift, share = voice.given((location - mean)[rows], left)
            location[rows] += counts * shift
            variance[rows] += counts * ((1.0 - counts) * shift**2 - share * left)
            said = np.zeros((len(voice.shares), len(models)))
            said[:, rows] = counts * share * np.stack(list(voice.shares.values()))
            moved, sources = np.concatenate([moved, said.T], axis=1), [*sources, *voice.shares]
        deviation = deviations(variance, unit, 0.5 if self.table.tasks else 0.0)
        if raw.any():
            others = np.intersect1d(chosen, np.flatnonzero(~raw))
            known = self.elsewhere.untrained
            location[raw] += location[others].mean() - known.gap - location[raw].mean()
            deviation[raw] = known.spread
        if len(anchored):
            # Results say how the measured models stand to each other; where all of them stand is
            # still what was expected, with scores, and as unsure as the mean of so many.
            placed = placed + (location - unheard)[anchored].mean()
            doubt = float((deviation[anchored] ** 2).mean()) / len(anchored)
            location[anchored] = placed
            deviation[anchored] = np.sqrt(MEASURED**2 + doubt)
        metric = self._metric(settings, placed, values, location, deviation, sign)
        reasons = Reasons(
            models,
            self._counts,
            self.prior.explained,
            mean,
            moved,
            like,
            sources,
            len(anchored),
        )
        return make_ranking(
            settings,
            [models[i] for i in chosen],
            location[chosen],
            deviation[chosen],
            measured[chosen],
            raw[chosen],
            self.elsewhere.untrained.doubt,
            None
            if metric is None
            else (metric[0][chosen], metric[1][chosen], metric[2][chosen], metric[3]),
            [reasons(int(i)) for i in chosen],
            self._evidence(
                settings, panel, scores, len(anchored), own.given.tasks, raw[chosen], voices
            ),
            {models[i]: float(v) for i, v in zip(anchored, values, strict=True)},
            sign,
        )

    def _raw(self, models: list[str], untrained: Collection[str], measured: Mask) -> Mask:
        """``(N,)``: untrained models of which no result is known."""
        if not self.elsewhere.untrained.tasks:
            return np.zeros(len(models), dtype=bool)
        counts = np.pad(self._counts, (0, len(models) - len(self._counts)))
        named = np.array([name in untrained for name in models], dtype=bool)
        return np.asarray(named & ~measured & (counts == 0))

    def _metric(
        self,
        settings: PosteriorSettings,
        placed: Array,
        values: Array,
        location: Array,
        deviation: Array,
        sign: float,
    ) -> Metric | None:
        """Expected metric, the ends of its 90 % interval, and the metric per unit of the scale.

        Three anchors or more tell the task's level and spread; without, other tasks stand in. All
        of it stays within what the metric can be. None where nothing tells the metric: an interval
        that is many times wider than a task's range is no expectation.
        """
        found = self._told_metric(settings, placed, values, location, deviation)
        if found is None:
            return None
        middle, low, high, slope = found
        known = np.concatenate([self.table.values[self._known], sign * values])
        least, most = sorted(sign * end for end in possible(known))
        middle, low, high = (np.clip(part, least, most) for part in (middle, low, high))
        wide = _WIDEST * slope * float(np.ptp(settings.scale(normal_range(len(location)))))
        return None if float(np.median(high - low)) > wide else (middle, low, high, slope)

    def _told_metric(
        self,
        settings: PosteriorSettings,
        placed: Array,
        values: Array,
        location: Array,
        deviation: Array,
    ) -> Metric | None:
        if len(placed) >= 3 and float(np.ptp(placed)) > 1e-9:
            slope = metric_slope(placed, values)
            mean = metric_of(location, placed, values)
            width = slope * deviation * few_anchors(len(placed))
            # Nobody is further from what is expected than the pool is wide.
            reach = slope * float(np.ptp(settings.scale(normal_range(len(location)))))
            low = np.maximum(settings.metric_low * width, -reach)
            high = np.minimum(settings.metric_high * width, reach)
            return mean, mean + low, mean + high, slope
        columns = [
            (self.table.oriented[known, task], settings.scale(self.table.scores[known, task]))
            for task in range(len(self.table.tasks))
            for known in [self._known[:, task]]
            if known.sum() >= 5
        ]
        if len(columns) < 2:
            return None
        slope = float(np.median([np.ptp(y) / max(float(np.ptp(x)), 1e-9) for y, x in columns]))
        if len(placed):
            # One or two results fix the level; the spread is still that of other tasks.
            middle = float(values.mean()) + slope * (location - float(placed.mean()))
            ends = [
                middle + slope * (end * deviation + np.sign(end))
                for end in (settings.low, settings.high)
            ]
            return middle, ends[0], ends[1], slope
        middle, low, high = typical_interval(columns, location, deviation)
        factor = settings.metric_width
        return middle, middle + factor * (low - middle), middle + factor * (high - middle), slope

    def _evidence(
        self,
        settings: PosteriorSettings,
        panel: ScorePanel,
        scores: Mapping[str, Mapping[str, float]],
        anchors: int,
        alike: Array,
        raw: Mask,
        voices: Sequence[Voice | None],
    ) -> list[EvidenceUse]:
        results = int(self._known.sum())
        belief = settings.blend.trust
        fallback = (
            f"; its mean rank counts {1.0 - belief.weight:.0%}, for the rest gained {belief}"
            if belief.tasks
            else ""
        )
        found = [
            EvidenceUse(
                "history",
                results > 0,
                f"{results:,} results of {int((self._counts > 0).sum()):,} models on "
                f"{len(self.table.tasks)} tasks{fallback}"
                if results
                else "no results in the history",
            ),
            EvidenceUse("metadata", bool(self.prior.explained > 0), self.prior.reason),
        ]
        if anchors:
            words = f"{anchors} models measured on this task"
            if settings.tasks:
                words += (
                    f"; with as many, correlation with the truth went from "
                    f"{settings.merit_without:.2f} to {settings.merit:.2f} over {settings.tasks} "
                    "tasks left out"
                )
            found.append(EvidenceUse("anchors", True, words))
            if len(alike) and alike.max() > _STANDS_OUT / len(alike):
                most = np.argsort(-alike, kind="stable")[:3]
                words = ", ".join(f"{self.table.tasks[i]} ({alike[i]:.0%})" for i in most)
                found.append(EvidenceUse("old tasks", True, f"this one is most like {words}"))
        if raw.any():
            known = self.elsewhere.untrained
            found.append(
                EvidenceUse(
                    "weights",
                    True,
                    f"those of {raw.sum()} of {len(raw)} models are an initialisation's; such a "
                    f"one was best on {known.best} of {known.tasks} tasks of the shipped set",
                )
            )
        heard = [voice.shares for voice in voices if voice is not None]
        words = "" if np.isnan(panel.trust.gain) else f"; together: ranking {panel.trust}"
        for sensor in panel.sensors:
            count = sum(np.isfinite(value) for value in scores[sensor.name].values())
            spoke = any(own[sensor.name].any() for own in heard if sensor.name in own)
            used = bool(sensor.used and count >= 2 and spoke and panel.trust.weight > 0.0)
            reason = sensor.reason + words if count >= 2 else "fewer than 2 values"
            found.append(EvidenceUse(sensor.name, used, reason))
        return found

    @property
    def sensors(self) -> dict[str, Sensor]:
        """What each score is worth that the history has tested."""
        return {each.name: each for each in self.panel.sensors}

    def _panel(self, names: Iterable[str]) -> ScorePanel:
        """What is known of the named scores: from the history, else from the shipped set."""
        wanted = list(names)
        panel = self.panel.with_others(self.elsewhere)
        for name in wanted:
            panel = panel.with_others(assumed(name))
        if not self.table.tasks:
            belief = Trust()
        else:
            tested = any(name in self.panel for name in wanted)
            belief = self.panel.trust if tested else self.elsewhere.trust
        return replace(panel.chosen(wanted), trust=belief)

    def _learn_prior(self) -> Prior:
        own = [self.facts.get(model, {}) for model in self.table.models]
        means = mean_scores(self.table.scores)
        filled = np.where(self._known, self.table.scores, means[:, None])
        return learn_prior(own, filled, self._counts.astype(np.float64))

    def _complete(
        self, scores: Array, known: Mask, facts: Sequence[Mapping[str, Fact]]
    ) -> tuple[Array, Array]:
        """Rows without gaps: a gap holds the model's mean, drawn towards what its facts say, plus
        how its facts' row departs from its own mean. Of the second, whole rows move with the mean
        where facts say something."""
        guess = self.prior(facts)
        level = guess.mean(axis=1) if guess.shape[1] else np.zeros(len(guess))
        trust = self._trust / (1.0 - self.prior.explained)
        total = np.where(known, scores, 0.0).sum(axis=1)
        means = (total + trust * level) / (known.sum(axis=1) + trust)
        gap = means[:, None] + guess - level[:, None]
        plain = rows = np.where(known, scores, gap)
        if self.prior.explained > 0.0 and rows.shape[1]:
            rows = rows + (means - rows.mean(axis=1))[:, None]
        return plain, rows

    def _reliabilities(self, counts: Array, facts: Sequence[Mapping[str, Fact]]) -> Array:
        """0..1: share of a model's standing that its results, or its facts, account for."""
        tasks = max(len(self.table.tasks), 1)
        share = counts / (counts + self._trust) / (tasks / (tasks + self._trust))
        told = np.array([self.prior.explained if own else 0.0 for own in facts])
        return np.asarray(share + (1.0 - share) * told, dtype=np.float64)

    def _rows_with(self, which: int, new: tuple[str, ...], facts: Facts) -> tuple[Profiles, Rivals]:
        key = (which, new)
        if key not in self._profiles or new:
            own = [facts.get(model, {}) for model in new]
            empty = np.full((len(new), len(self.table.tasks)), np.nan)
            plain, rows = self._complete(empty, np.isfinite(empty), own)
            plain = np.concatenate([self._plain, plain])
            rows = np.concatenate([self._rows, rows])
            reliability = np.concatenate(
                [self._reliability, self._reliabilities(np.zeros(len(new)), own)]
            )
            profiles = Profiles(self.settings[which].scale(rows), reliability)
            self._profiles[key] = profiles, Rivals(plain)
        return self._profiles[key]


def few_anchors(count: int) -> float:
    """How much wider intervals of the metric are with 3 or 4 anchors than with the 5 that widths
    were learnt with: the ratio of Student's t for a spread told by so many results."""
    from scipy.stats import t

    least = BUCKETS[1]
    return max(float(t.ppf(0.95, min(count, least) - 1) / t.ppf(0.95, least - 1)), 1.0)


def _trust(scores: Array, known: Mask) -> float:
    """How many results outweigh the prior: variance within models over variance between them."""
    counts = known.sum(axis=1)
    several = counts >= 2
    if several.sum() < 3:
        return 2.0
    means = mean_scores(scores)[several]
    squares = np.where(known, (scores - mean_scores(scores)[:, None]) ** 2, 0.0)[several]
    within = float((squares.sum(axis=1) / (counts[several] - 1)).mean())
    between = float(means.var() - (within / counts[several]).mean())
    return float(np.clip(within / max(between, 1e-3), 0.5, 20.0))


def _check(anchors: Mapping[str, float], scores: Mapping[str, Mapping[str, float]]) -> None:
    for model, value in anchors.items():
        if not np.isfinite(value):
            raise InputError(f"the result of anchor '{model}' is {value}, expected a finite number")
    for name, own in scores.items():
        for model, value in own.items():
            if np.isinf(value):
                raise InputError(f"score '{name}' of '{model}' is infinite")
