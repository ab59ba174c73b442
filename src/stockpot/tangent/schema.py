"""What ``stockpot tangent`` leaves and says, as types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stockpot.results import ResultPart, VerbResults


@dataclass(frozen=True)
class ComponentPlan:
    """A component that ``train`` would make: its rows, its classes and its training steps."""

    name: str
    examples: int
    validation: int
    classes: int
    steps: int


class ComponentEntry(ResultPart):
    """A component's file, below the folder of the run, and what it holds."""

    name: str
    file: str
    digest: str
    examples: int
    classes: tuple[str, ...]
    metrics: Mapping[str, float]


class TangentResults(VerbResults):
    """``components.json``: all components of a run, with the base and head they are bound to.

    ``skipped``: files that could not be read; ``notes``: what else there is to know.
    """

    title: str
    base_digest: str
    head_digest: str
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    components: tuple[ComponentEntry, ...]


class ComponentScore(ResultPart):
    """A component of a composition, its weight, and how well it does alone."""

    name: str
    weight: float
    accuracy: float


class CompositionScores(ResultPart):
    """Accuracies on rows that no component has seen, 0 to 1.

    ``base_accuracy``: of the base, None for statistics; ``task_incremental``: where components have
    classes of their own, among those of a row's own component; ``weights``: the rule.
    """

    composer: str
    classes: tuple[str, ...]
    mode: Literal["class", "data"]
    accuracy: float
    by_domain: Mapping[str, float]
    base_accuracy: float | None
    examples: int
    task_incremental: float | None = None
    components: tuple[ComponentScore, ...]
    weights: str
