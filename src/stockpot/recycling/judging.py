"""Which metrics a recipe's models are judged by, and whether they can be on its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stockpot.errors import InputError
from stockpot.evaluation.metrics import (
    METRICS,
    Kind,
    Metric,
    default_metric,
    fitting_metric,
    metrics_beside,
)
from stockpot.recycling.cells import split_arguments
from stockpot.recycling.metrics import WeightScores
from stockpot.recycling.plan import Plan
from stockpot.recycling.recipe import Recipe
from stockpot.tasks import Task, split_task
from stockpot.training.rows import limit_task


def selection_metric(recipe: Recipe, kind: Kind) -> Metric:
    """What steps, runs and members are chosen by, and the table shows.

    Raises ``InputError`` where the recipe names one for the other kind of task.
    """
    return fitting_metric(recipe.metric, kind)


def other_metrics(recipe: Recipe, kind: Kind) -> tuple[Metric, ...]:
    """What is reported beside it. Raises ``InputError`` as :func:`selection_metric` does."""
    if recipe.also is None:
        return tuple(METRICS[name] for name in metrics_beside(selection_metric(recipe, kind)))
    return tuple(fitting_metric(name, kind) for name in recipe.also)


def check_metrics(recipe: Recipe, task: Task, plan: Plan) -> None:
    """Before anything runs: every metric has a value on all rows that it will be asked for.

    Raises ``InputError`` naming metric, rows and why: AUROC needs two classes, R2 labels that vary.
    """
    selecting, beside = selection_metric(recipe, task.kind), other_metrics(recipe, task.kind)
    arguments = [cell.probe.arguments for cell in plan.cells]
    data, splits = arguments[0]["data"], [each["split"] for each in arguments]
    if recipe.final.train_on == "all":
        splits.append(split_arguments(recipe, None, 0))
    if data["limit"] is not None:
        task = limit_task(task, data["limit"], data["seed"])
    for split in splits:
        parts = split_task(task, **split)
        _check(selecting, task, parts.validation, "validation")
        for metric in dict.fromkeys((selecting, *beside)):
            _check(metric, task, parts.test, "held-out" if split["held_out"] else "test")


def _check(metric: Metric, task: Task, parts: Mapping[str, Any], which: str) -> None:
    for domain, rows in parts.items():
        try:
            metric.check_labels(task.labels[rows])
        except InputError as error:
            problem = f"task '{task.name}', {which} rows of domain '{domain}': {error.message}"
            raise InputError(problem, hint=error.hint) from error


def measured(scored: WeightScores, metric: Metric, tested: str) -> dict[str, float]:
    """A model's scores as its card and the registry name them, in the metric's own sign.

    ``tested``: the word for test rows, as of :func:`stockpot.recycling.cells.tested_as`.

    Accuracy and R2 are both called accuracy; other metrics have their own name.
    """
    name = "accuracy" if metric is default_metric(metric.kind) else metric.name
    pairs = (("id", scored.id_accuracy), (tested, scored.accuracy))
    return {f"{where}_{name}": metric.sign * value for where, value in pairs if value is not None}
