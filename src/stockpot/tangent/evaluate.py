"""Accuracy of a composition on the rows that no component has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stockpot.errors import InputError
from stockpot.tangent.component import Component
from stockpot.tangent.composer import AverageComposer, ComposedDelta, Weights
from stockpot.tangent.learning import learn_weights
from stockpot.tangent.modes import accuracy_among, class_numbers, own_task
from stockpot.tangent.run import Opened
from stockpot.tangent.train import predict_delta


@dataclass(frozen=True)
class Chosen:
    """Weights of a composition and how they came about."""

    weights: list[float]
    rule: str
    pull: float | None = None


def choose_weights(opened: Opened, components: Sequence[Component], wanted: str) -> Chosen:
    """``wanted``: "uniform", "sum", "examples", "learnt", or numbers with commas.

    Learnt ones come from the validation rows of the recipe's shards.
    """
    from stockpot.tangent.composer import resolve_weights

    if wanted == "learnt":
        found = learn_weights(
            opened.model,
            components,
            opened.feed,
            opened.task.labels,
            opened.division.validation,
            kappa=opened.recipe.training.kappa,
        )
        return Chosen(list(found.weights), "learnt", found.pull)
    return Chosen(resolve_weights(components, parse_weights(wanted)), wanted)


def parse_weights(text: str) -> Weights:
    """A rule's name, or numbers with commas between them; ``InputError`` for anything else."""
    if text in ("uniform", "sum", "examples"):
        return text  # type: ignore[return-value]
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"weights '{text}' are neither a rule nor numbers",
            hint="uniform, sum, examples, learnt, or such as 0.5,0.3,0.2",
        ) from None


def evaluate(
    opened: Opened, components: Sequence[Component], weights: Sequence[float]
) -> dict[str, Any]:
    """Accuracy of the base, of each component and of their composition, by test domain.

    Components by classes are judged class-incrementally (among all classes seen) and, where their
    classes are disjoint, task-incrementally; others data-incrementally.
    """
    composer = AverageComposer(opened.model)
    composed = composer.compose(components, weights)
    assert isinstance(composed, ComposedDelta)
    head = opened.task.classes
    seen = class_numbers(composed.classes, head)
    tasks = [class_numbers(component.classes, head).tolist() for component in components]
    disjoint = len({c for task in tasks for c in task}) == sum(map(len, tasks))
    whole = _Scores(opened, composed.delta, seen)
    if not whole.examples:
        raise InputError("no test example is of a class that these components have seen")
    result: dict[str, Any] = {
        "classes": list(composed.classes),
        "mode": "class" if opened.recipe.components.by == "classes" else "data",
        "accuracy": whole.mean,
        "by_domain": whole.by_domain,
        "base_accuracy": _Scores(opened, {}, seen).mean,
        "examples": whole.examples,
    }
    if disjoint and len(tasks) > 1:
        result["task_incremental"] = whole.task_incremental(tasks)
    result["components"] = [
        {
            "name": component.task,
            "weight": float(weight),
            "accuracy": _Scores(opened, composer.compose([component], [1.0]).state(), seen).mean,
        }
        for component, weight in zip(components, weights, strict=True)
    ]
    return result


class _Scores:
    """Accuracies of one delta among the classes ``seen``; rows of other classes are left out."""

    def __init__(self, opened: Opened, delta: Any, seen: np.ndarray) -> None:
        labels = opened.task.labels
        self.by_domain: dict[str, float] = {}
        self.outputs: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        for domain, rows in opened.division.test.items():
            kept = rows[np.isin(labels[rows], seen)]
            if not len(kept):
                continue
            outputs = predict_delta(opened.model, delta, opened.feed, kept)
            self.by_domain[domain] = accuracy_among(outputs, labels[kept], seen)
            self.outputs.append(outputs)
            self.labels.append(labels[kept])

    @property
    def examples(self) -> int:
        return sum(len(labels) for labels in self.labels)

    @property
    def mean(self) -> float:
        """Mean over domains."""
        return float(np.mean(list(self.by_domain.values())))

    def task_incremental(self, tasks: Sequence[Sequence[int]]) -> float:
        outputs, labels = np.concatenate(self.outputs), np.concatenate(self.labels)
        return accuracy_among(outputs, labels, own_task(labels, tasks, outputs.shape[1]))
