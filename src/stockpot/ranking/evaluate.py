"""How well a history predicts: leave one task out, rank its models, compare with what happened.

Every task is held out in turn, with all tasks of its group. Some of its models are revealed as
anchors (drawn at random, the same for every method); each method orders the rest. The trivial
baselines stand beside the posterior, always. Intervals are bootstraps over tasks, differences are
paired.

- tau: weighted Kendall tau of the truth and the prediction (Vigna 2015; ``scipy.stats``).
- regret: points between the best model and the one put first (``regret5``: the best of the first
  five); metrics within 0..1 count times 100.
- rel5: best of the first five divided by the best of all.
- coverage: share of 90 % intervals that hold the truth; P(best) against how often it came true,
  where k models that are all best share it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from stockpot.errors import InputError
from stockpot.progress import progress
from stockpot.ranking.evaluated import (
    HISTORY,
    IMAGENET,
    PARAMETERS,
    POSTERIOR,
    PUBLISHED,
    RANDOM,
    Ledger,
    LeftOut,
    RankingEvaluation,
)
from stockpot.ranking.history import Table, mean_scores
from stockpot.ranking.posterior import Posterior, fit
from stockpot.ranking.posterior.metadata import learn_prior

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_IMAGENET = {"imagenet", "imagenet 1k", "imagenet-1k", "imagenet1k"}
_LEAST = 4


def evaluate(
    table: Table,
    *,
    anchors: Sequence[int] = (0, 5, 20),
    repeats: int = 3,
    tasks: Collection[str] | None = None,
    scores: Mapping[str, Array] | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> RankingEvaluation:
    """Leave out each of ``tasks`` (default: all) and rank its models with each number of anchors.

    ``repeats``: draws of anchors per task. ``scores``: transferability scores as in
    :func:`.posterior.fit`. A number of anchors that leaves fewer than 4 models on a task skips the
    task. Equal seeds give equal numbers. Raises ``InputError`` if no task can be held out.
    """
    chosen = [t for t in table.tasks if tasks is None or t in tasks]
    kept = [t for t in chosen if _usable(table.oriented[:, table.column[t]], min(anchors))]
    if not kept:
        raise InputError(
            "no task can be held out: each needs 4 models with different results, and one other "
            "task"
        )
    ledger = Ledger()
    with progress("leave one task out", len(kept), quiet=quiet) as advance:
        for task in kept:
            _hold_out(table, task, anchors, repeats, scores or {}, seed, ledger)
            advance(1, task)
    rows = [row for count in anchors for row in ledger.rows(count)]
    return RankingEvaluation(
        models=len(table.models),
        tasks=tuple(kept),
        repeats=repeats,
        rows=tuple(rows),
        calibration=tuple(ledger.calibration(count) for count in anchors if ledger.has(count)),
        model_left_out=leave_one_model_out(table),
        taus=ledger.taus(),
    )


def _usable(column: Array, anchors: int) -> bool:
    known = column[np.isfinite(column)]
    return len(known) >= max(_LEAST + anchors, _LEAST) and float(np.ptp(known)) > 0


def _hold_out(
    table: Table,
    task: str,
    anchors: Sequence[int],
    repeats: int,
    scores: Mapping[str, Array],
    seed: int,
    ledger: Ledger,
) -> None:
    column = table.column[task]
    others = [each for each in table.tasks if table.group(each) != table.group(task)]
    if not others:
        raise InputError(f"task '{task}' has no other task to be predicted from")
    train = table.select(tasks=others)
    indices = [table.column[each] for each in others]
    posterior = fit(train, scores={name: each[:, indices] for name, each in scores.items()})
    truth = table.oriented[:, column]
    candidates = np.flatnonzero(np.isfinite(truth))
    unit = 100.0 if np.nanmax(np.abs(table.values[:, column])) <= 1.5 else 1.0
    plain = baselines(train, [table.models[i] for i in candidates], task, seed)
    for count in anchors:
        if not _usable(truth, count):
            continue
        for repeat in range(repeats if count else 1):
            random = np.random.default_rng([seed, column, repeat])
            drawn = np.sort(random.choice(candidates, count, replace=False))
            rest = np.setdiff1d(candidates, drawn)
            if float(np.ptp(truth[rest])) <= 0:
                continue
            predictions = {
                name: values[np.searchsorted(candidates, rest)] for name, values in plain.items()
            }
            predictions[POSTERIOR] = _ask(
                posterior, table, task, candidates, drawn, rest, scores, ledger
            )
            for name, values in predictions.items():
                ledger.add(name, count, task, _measures(truth[rest] * unit, values))


def _ask(
    posterior: Posterior,
    table: Table,
    task: str,
    candidates: Rows,
    drawn: Rows,
    rest: Rows,
    scores: Mapping[str, Array],
    ledger: Ledger,
) -> Array:
    """The posterior's prediction for ``rest``; notes how well its intervals hold."""
    from scipy.stats import rankdata

    column = table.column[task]
    ranking = posterior.for_task(
        {table.models[i]: float(table.values[i, column]) for i in drawn},
        {
            name: {table.models[i]: float(each[i, column]) for i in candidates}
            for name, each in scores.items()
        },
        [table.models[i] for i in candidates],
        lower_is_better=task in table.lower,
    )
    standing = {each.model: each for each in ranking.standings}
    truth = table.oriented[candidates, column]
    places = dict(zip(candidates, rankdata(-truth), strict=True))
    best = truth.max()
    share = 1.0 / int((truth == best).sum())  # of the models that are all best
    for i in candidates:
        own = standing[table.models[i]]
        if not own.measured:
            value = float(table.values[i, column])
            inside = own.rank.low - 1e-9 <= places[i] <= own.rank.high + 1e-9
            told = own.metric
            metric = None if told is None else told.low <= value <= told.high
            ledger.cover(len(drawn), inside, metric)
        ledger.chance(len(drawn), own.best, share * bool(table.oriented[i, column] == best))
    place = dict(zip(ranking.order, ranking.location, strict=True))
    return np.array([place[table.models[i]] for i in rest])


def _measures(truth: Array, predicted: Array) -> dict[str, float]:
    from scipy.stats import weightedtau

    order = np.argsort(-predicted, kind="stable")
    best = float(truth.max())
    five = float(truth[order[:5]].max())
    tau = float(weightedtau(truth, predicted)[0])
    return {
        # A prediction that is the same for all models orders nothing.
        "tau": tau if np.isfinite(tau) else 0.0,
        "regret": best - float(truth[order[0]]),
        "regret5": best - five,
        "rel5": five / best if best > 0 else float("nan"),
    }


def baselines(train: Table, models: Sequence[str], task: str, seed: int = 0) -> dict[str, Array]:
    """What needs no method: mean rank over history, parameters, the latest publication (fact
    ``published``: a year or an ISO date), ImageNet accuracy, random.

    ``(n,)`` each, for ``models``; those that the history cannot give are left out. Where ImageNet
    is the task itself, history stands in for it.
    """
    rows = [train.row[name] for name in models]
    found = {HISTORY: mean_scores(train.scores)[rows]}
    facts = [train.metadata.get(name, {}) for name in models]
    sizes = np.array([_number(own.get("parameters")) for own in facts])
    if np.isfinite(sizes).mean() >= 0.8 and float(np.nanstd(sizes)) > 0:
        found[PARAMETERS] = np.where(np.isfinite(sizes), sizes, np.nanmedian(sizes))
    dates = np.array([_date(own.get("published")) for own in facts])
    if np.isfinite(dates).mean() >= 0.8 and float(np.nanstd(dates)) > 0:
        found[PUBLISHED] = np.where(np.isfinite(dates), dates, np.nanmedian(dates))
    accuracy = np.array([_number(own.get("imagenet")) for own in facts])
    for name in train.tasks:
        if name.casefold() in _IMAGENET:
            accuracy = train.scores[rows, train.column[name]]
    if task.casefold() in _IMAGENET:
        found[IMAGENET] = found[HISTORY]
    elif np.isfinite(accuracy).mean() >= 0.8 and float(np.nanstd(accuracy)) > 0:
        found[IMAGENET] = np.where(np.isfinite(accuracy), accuracy, np.nanmedian(accuracy))
    column = sum(task.encode())
    found[RANDOM] = np.random.default_rng([seed, column]).normal(size=len(models))
    return found


def _number(value: float | str | None) -> float:
    return float("nan") if value is None or isinstance(value, str) else float(value)


def _date(value: float | str | None) -> float:
    """A year, or the days of an ISO date (``2021``, ``2021-03``, ``2021-03-04``) as one."""
    if not isinstance(value, str):
        return _number(value)
    try:
        year, *rest = (float(part) for part in value.split("-"))
    except ValueError:
        return float("nan")
    month, day = (*rest, 1.0, 1.0)[:2]
    return year + (month - 1.0) / 12.0 + (day - 1.0) / 372.0


def leave_one_model_out(table: Table, *, most: int = 400) -> LeftOut | None:
    """Predict each model's mean over tasks from facts, learnt on the other models.

    None where the table has no facts that vary, or fewer than 10 models.
    """
    from scipy.stats import weightedtau

    facts = [table.metadata.get(name, {}) for name in table.models]
    known = np.isfinite(table.scores)
    usable = [i for i in np.flatnonzero(known.any(axis=1)) if facts[i]][:most]
    if len(usable) < 10:
        return None
    means = mean_scores(table.scores)
    rows = np.where(known, table.scores, means[:, None])[usable]
    weights = known.sum(axis=1).astype(np.float64)[usable]
    own = [facts[i] for i in usable]
    whole = learn_prior(own, rows, weights)
    predicted = np.zeros(len(usable))
    for index in range(len(usable)):
        others = [i for i in range(len(usable)) if i != index]
        prior = learn_prior([own[i] for i in others], rows[others], weights[others])
        predicted[index] = float(prior([own[index]]).mean())
    truth = means[usable]
    sizes = np.array([_number(each.get("parameters")) for each in own])
    by_size = None
    if np.isfinite(sizes).all() and float(np.std(sizes)) > 0:
        by_size = float(weightedtau(truth, sizes)[0])
    tau = float(weightedtau(truth, predicted)[0]) if float(np.ptp(predicted)) > 0 else 0.0
    return LeftOut(models=len(usable), tau=tau, parameters=by_size, reason=whole.reason)
