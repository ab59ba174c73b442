"""What leave-one-task-out found: per method, number of anchors and task; tables and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stockpot.evaluation.intervals import Difference, Interval, paired_bootstrap

POSTERIOR, HISTORY, RANDOM = "posterior", "mean rank over history", "random"
PARAMETERS, IMAGENET = "parameters", "ImageNet accuracy"
_BINS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


@dataclass(frozen=True)
class EvaluationRow:
    """One method with so many anchors. ``difference``: in tau, to the mean rank over history."""

    method: str
    anchors: int
    tau: Interval
    regret: Interval
    regret5: Interval
    rel5: float | None
    difference: Difference | None

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "anchors": self.anchors,
            "tau": self.tau.to_json(),
            "regret": self.regret.to_json(),
            "regret5": self.regret5.to_json(),
            "rel5": self.rel5,
            "difference": self.difference.to_json() if self.difference else None,
        }


@dataclass(frozen=True)
class Bin:
    """Predictions of P(best) of about ``predicted``: ``count`` of them, ``observed`` came true."""

    predicted: float
    observed: float
    count: int

    def to_json(self) -> dict[str, float]:
        return {"predicted": self.predicted, "observed": self.observed, "count": self.count}


@dataclass(frozen=True)
class Calibration:
    """Of the posterior with so many anchors: coverage of 90 % intervals of ranks and of metrics
    (None where no metric was predicted), and the reliability of P(best)."""

    anchors: int
    ranks: float
    metrics: float | None
    best: tuple[Bin, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "anchors": self.anchors,
            "ranks": self.ranks,
            "metrics": self.metrics,
            "best": [each.to_json() for each in self.best],
        }


@dataclass(frozen=True)
class LeftOut:
    """Leave one model out: facts alone against the model's real mean over tasks.

    ``tau``: weighted Kendall tau over models; ``parameters``: that of the number of parameters.
    """

    models: int
    tau: float
    parameters: float | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {
            "models": self.models,
            "tau": self.tau,
            "parameters": self.parameters,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class RankingEvaluation:
    """``rows`` per number of anchors, ``calibration`` likewise; ``tasks``: those held out."""

    models: int
    tasks: tuple[str, ...]
    repeats: int
    rows: tuple[EvaluationRow, ...]
    calibration: tuple[Calibration, ...]
    model_left_out: LeftOut | None
    taus: Mapping[tuple[str, int], Mapping[str, float]]

    def row(self, method: str, anchors: int) -> EvaluationRow:
        """The row of a method with so many anchors; ``KeyError`` if there is none."""
        for each in self.rows:
            if (each.method, each.anchors) == (method, anchors):
                return each
        raise KeyError((method, anchors))

    def to_json(self) -> dict[str, Any]:
        return {
            "models": self.models,
            "tasks": list(self.tasks),
            "repeats": self.repeats,
            "rows": [row.to_json() for row in self.rows],
            "calibration": [each.to_json() for each in self.calibration],
            "model_left_out": self.model_left_out.to_json() if self.model_left_out else None,
            "taus": [
                {"method": method, "anchors": k, "tasks": dict(own)}
                for (method, k), own in self.taus.items()
            ],
        }


class Ledger:
    """Collects what was measured, per method, number of anchors and task."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, int], dict[str, list[dict[str, float]]]] = {}
        self._inside: dict[int, list[tuple[bool, bool | None]]] = {}
        self._chances: dict[int, list[tuple[float, bool]]] = {}

    def add(self, method: str, anchors: int, task: str, values: dict[str, float]) -> None:
        self._values.setdefault((method, anchors), {}).setdefault(task, []).append(values)

    def cover(self, anchors: int, rank: bool, metric: bool | None) -> None:
        self._inside.setdefault(anchors, []).append((rank, metric))

    def chance(self, anchors: int, predicted: float, came_true: bool) -> None:
        self._chances.setdefault(anchors, []).append((predicted, bool(came_true)))

    def has(self, anchors: int) -> bool:
        return anchors in self._inside

    def taus(self) -> dict[tuple[str, int], dict[str, float]]:
        return {
            key: {task: _mean(own, "tau") for task, own in by_task.items()}
            for key, by_task in self._values.items()
        }

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
                m,
                anchors,
                found["tau"][m].overall,
                found["regret"][m].overall,
                found["regret5"][m].overall,
                rel5[m],
                found["tau"][m].difference,
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
            Bin(float(predicted[own].mean()), float(true[own].mean()), int(own.sum()))
            for index in range(len(_BINS) - 1)
            for own in [which == index]
            if own.any()
        ]
        return Calibration(
            anchors,
            float(np.mean([rank for rank, _ in inside])),
            float(np.mean(metrics)) if metrics else None,
            tuple(bins),
        )


def _mean(values: list[dict[str, float]], measure: str) -> float:
    return float(np.mean([each[measure] for each in values]))


def _known_mean(values: list[float]) -> float | None:
    """Mean of what is finite; None where a ratio of metrics means nothing (negative ones)."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None
