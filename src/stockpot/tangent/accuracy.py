"""Accuracy of a composition on the rows that no component has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from stockpot.errors import InputError
from stockpot.tangent.component import Component
from stockpot.tangent.composer import Weights, resolve_weights
from stockpot.tangent.learning import learn_weights
from stockpot.tangent.modes import accuracy_among, class_numbers, own_task
from stockpot.tangent.opened import Opened
from stockpot.tangent.schema import ComponentScore, CompositionScores
from stockpot.training.predict import map_rows


@dataclass(frozen=True)
class Chosen:
    """Weights of a composition and how they came about."""

    weights: list[float]
    rule: str
    pull: float | None = None


def choose_weights(
    opened: Opened, components: Sequence[Component], wanted: str | None = None
) -> Chosen:
    """``wanted``: "learnt", what ``parse_weights`` takes, or None for the composer's own rule.

    Learnt ones come from the validation rows of the recipe's shards.
    """
    if wanted == "learnt":
        if opened.composer.kind != "delta":
            raise InputError(
                "weights are learnt for deltas only", hint="statistics compose to joint training"
            )
        found = learn_weights(
            opened.model,
            components,
            opened.feed,
            opened.task.labels,
            opened.division.validation,
            kappa=opened.recipe.training.kappa,
        )
        return Chosen(list(found.weights), "learnt", found.pull)
    rule = wanted or opened.composer.default
    return Chosen(resolve_weights(components, parse_weights(rule, components)), rule)


def parse_weights(text: str, components: Sequence[Component]) -> Weights:
    """A rule's name, numbers in the components' order, or ``name=number`` for each component.

    Raises ``InputError`` for anything else.
    """
    if text in ("uniform", "sum", "examples"):
        return text  # type: ignore[return-value]
    if "=" in text:
        return _named(text, components)
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"weights '{text}' are neither a rule nor numbers",
            hint="uniform, sum, examples, learnt, 0.5,0.3,0.2 or north=0.5,south=0.5",
        ) from None


def _named(text: str, components: Sequence[Component]) -> list[float]:
    given: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        try:
            given[name] = float(number)
        except ValueError:
            raise InputError(f"weights: '{part}' is not name=number") from None
    names = [component.task for component in components]
    for name in given:
        if name not in names:
            raise InputError(
                f"there is no component '{name}'", hint=f"there are {', '.join(names)}"
            )
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(f"weights: '{missing[0]}' has none", hint="leave it out with --without")
    return [given[name] for name in names]


def evaluate(opened: Opened, components: Sequence[Component], chosen: Chosen) -> CompositionScores:
    """Accuracy of the base (None for statistics), of each component and of their composition.

    Components by classes are judged class-incrementally (among all classes seen) and, where their
    classes are disjoint, task-incrementally; others data-incrementally.
    """
    composer, weights = opened.composer, chosen.weights
    composed = composer.compose(components, weights)
    head = opened.task.classes
    seen = class_numbers(composed.classes, head)
    tasks = [class_numbers(component.classes, head).tolist() for component in components]
    disjoint = len({c for task in tasks for c in task}) == sum(map(len, tasks))
    whole = _Scores(opened, composed.predict, seen)
    if not whole.examples:
        raise InputError("no test example is of a class that these components have seen")
    deltas = composer.kind == "delta"
    result = CompositionScores(
        composer=opened.recipe.composer.kind,
        classes=composed.classes,
        mode="class" if opened.recipe.components.by == "classes" else "data",
        accuracy=whole.mean,
        by_domain=whole.by_domain,
        base_accuracy=_Scores(opened, opened.model.native, seen).mean if deltas else None,
        examples=whole.examples,
        components=tuple(
            ComponentScore(
                name=component.task,
                weight=float(weight),
                accuracy=_Scores(opened, composer.compose([component], [1.0]).predict, seen).mean,
            )
            for component, weight in zip(components, weights, strict=True)
        ),
        weights=chosen.rule,
    )
    if disjoint and len(tasks) > 1:
        return result.model_copy(update={"task_incremental": whole.task_incremental(tasks)})
    return result


class _Scores:
    """Accuracies of one model among the classes ``seen``; rows of other classes are left out."""

    def __init__(self, opened: Opened, predict: Callable[[Any], Tensor], seen: np.ndarray) -> None:
        labels = opened.task.labels
        self.by_domain: dict[str, float] = {}
        self.outputs: list[np.ndarray] = []
        self.labels: list[np.ndarray] = []
        for domain, rows in opened.division.test.items():
            kept = rows[np.isin(labels[rows], seen)]
            if not len(kept):
                continue
            outputs = map_rows(predict, opened.feed, kept, opened.model.device)
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
