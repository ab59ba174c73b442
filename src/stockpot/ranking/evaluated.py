"""What leave-one-task-out found: per method, number of anchors and task; tables and calibration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stockpot.evaluation.intervals import Difference, Interval, paired_bootstrap
from stockpot.results import ResultPart, VerbResults

POSTERIOR, HISTORY, RANDOM = "posterior", "mean rank over history", "random"
PARAMETERS, IMAGENET = "parameters", "ImageNet accuracy"
PUBLISHED = "latest publication"
_BINS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


class EvaluationRow(ResultPart):
    """One method with so many anchors. ``difference``: in tau, to the mean rank over history."""

    method: str
    anchors: int
    tau: Interval
    regret: Interval
    regret5: Interval
    rel5: float | None
    difference: Difference | None


class Bin(ResultPart):
    """Predictions of P(best) of about ``predicted``: ``count`` of them, the share ``observed`` came
    true; of k models that are all best each counts 1 / k.
    """

    predicted: float
    observed: float
    count: int


class Calibration(ResultPart):
    """Of the posterior with so many anchors: coverage of 90 % intervals of ranks and of metrics
    (None where no metric was predicted), and the reliability of P(best)."""

    anchors: int
    ranks: float
    metrics: float | None
    best: tuple[Bin, ...]


class LeftOut(ResultPart):
    """Leave one model out: facts alone against the model's real mean over tasks.

    ``tau``: weighted Kendall tau over models; ``parameters``: that of the number of parameters.
    """

    models: int
    tau: float
    parameters: float | None
    reason: str


class TaskTaus(ResultPart):
    """Weighted Kendall tau of one method with so many anchors, by task left out."""

    method: str
    anchors: int
    tasks: Mapping[str, float | None]


class RankingEvaluation(VerbResults):
    """``rows`` per number of anchors, ``calibration`` likewise; ``tasks``: those held out."""

    models: int
    tasks: tuple[str, ...]
    repeats: int
    rows: tuple[EvaluationRow, ...]
    calibration: tuple[Calibration, ...]
    model_left_out: LeftOut | None
    taus: tuple[TaskTaus, ...]

    def row(self, method: str, anchors: int) -> EvaluationRow:
        """The row of a method with so many anchors; ``KeyError`` if there is none."""
        for each in self.rows:
            if (each.method, each.anchors) == (method, anchors):
                return each
        raise KeyError((method, anchors))


class Ledger:
    """Collects what was measured, per method, number of anchors and task."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, int], dict[str, list[dict[str, float]]]] = {}
        self._inside: dict[int, list[tuple[bool, bool | None]]] = {}
        self._chances: dict[int, list[tuple[float, float]]] = {}

    def add(self, method: str, anchors: int, task: str, values: dict[str, float]) -> None:
        self._values.setdefault((method, anchors), {}).setdefault(task, []).append(values)

    def cover(self, anchors: int, rank: bool, metric: bool | None) -> None:
        self._inside.setdefault(anchors, []).append((rank, metric))

    def chance(self, anchors: int, predicted: float, came_true: float) -> None:
        self._chances.setdefault(anchors, []).append((predicted, came_true))

    def has(self, anchors: int) -> bool:
        return anchors in self._inside

    def taus(self) -> tuple[TaskTaus, ...]:
        return tuple(
            TaskTaus(
                method=method,
                anchors=count,
                tasks={task: _mean(own, "tau") for task, own in by_task.items()},
            )
            for (method, count), by_task in self._values.items()
        )

    def rows(self, anchors: int) -> list[EvaluationRow]:
        """Rows of the methods that were run on all tasks, the posterior first."""
        by_method = {m: own for (m, count), own in self._values.items() if count == anchors}
        if not by_method:
            return []
        tasks = list(by_method[HISTORY])
        whole = {m: own for m, own in by_method.items() if list(own) == tasks}
        names = sorted(whole, key=lambda m: (m != POSTERIOR, m != HISTORY))
        found = {
            measure: paired_bootstrap(
                {
                    m: {("tasks", 0): np.array([_mean(whole[m][t], measure) for t in tasks])}
                    for m in names
                },
                HISTORY,
                metric=measure,
            )
            for measure in ("tau", "regret", "regret5")
        }
        rel5 = {m: _known_mean([_mean(whole[m][t], "rel5") for t in tasks]) for m in names}
        return [
            EvaluationRow(
                method=m,
                anchors=anchors,
                tau=found["tau"][m].overall,
                regret=found["regret"][m].overall,
                regret5=found["regret5"][m].overall,
                rel5=rel5[m],
                difference=found["tau"][m].difference,
            )
            for m in names
        ]

    def calibration(self, anchors: int) -> Calibration:
        inside = self._inside[anchors]
        metrics = [metric for _, metric in inside if metric is not None]
        predicted = np.array([p for p, _ in self._chances[anchors]])
        true = np.array([t for _, t in self._chances[anchors]], dtype=np.float64)
        which = np.digitize(predicted, _BINS[1:-1])
        bins = [
            Bin(
                predicted=float(predicted[own].mean()),
                observed=float(true[own].mean()),
                count=int(own.sum()),
            )
            for index in range(len(_BINS) - 1)
            for own in [which == index]
            if own.any()
        ]
        return Calibration(
            anchors=anchors,
            ranks=float(np.mean([rank for rank, _ in inside])),
            metrics=float(np.mean(metrics)) if metrics else None,
            best=tuple(bins),
        )


def _mean(values: list[dict[str, float]], measure: str) -> float:
    return float(np.mean([each[measure] for each in values]))


def _known_mean(values: list[float]) -> float | None:
    """Mean of what is finite; None where a ratio of metrics means nothing (negative ones)."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None
