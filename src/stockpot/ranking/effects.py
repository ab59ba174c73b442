"""Which keys of a request have an effect where: one that has none is refused, not passed over.

Keys of a zoo's entry are looked at when its model is loaded (``features.extract.open_model``):
only the model knows whether it takes texts. There one costs its model's line, not the ranking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stockpot.declared import Effects, check_effects
from stockpot.errors import RecipeError
from stockpot.ranking.request import Request
from stockpot.ranking.scores import SCORES, Score
from stockpot.ranking.zoo import FeatureEntry, Zoo
from stockpot.tasks import PARTS, Task


@dataclass(frozen=True)
class _Case:
    request: Request
    task: Task

    @property
    def draws_validation(self) -> bool:
        splits = self.task.splits
        return splits is None or not np.any(splits == PARTS.index("validation"))


EFFECTS: Effects[_Case] = {
    "validation_fraction": (
        lambda case: case.draws_validation,
        "validation rows that are drawn: the task has its own",
    ),
    "sample.first": (
        lambda case: (
            case.request.sample.keep == "features"
            and case.request.sample.first <= case.request.sample.most
        ),
        "keep: features, and up to 'most'",
    ),
    "training.augmentation": (lambda case: case.task.modality == "image", "images"),
}
"""By key: whether it has an effect, and with what it has one."""


def check(request: Request, task: Task, zoo: Zoo) -> None:
    """Raise ``RecipeError`` naming every value, other than its default, that changes nothing, and
    every score that is defined for no model of the zoo on this task."""
    check_effects(request, EFFECTS, _Case(request, task))
    problems, instead = [], dict[str, None]()
    for name in request.scores or ():
        if lack := _lack(SCORES[name], request, task, zoo):
            problems.append(f"{request.at('scores')}: '{name}' is not defined here: {lack}")
            instead |= dict.fromkeys(
                other
                for other in SCORES[name].instead
                if other in SCORES and not _lack(SCORES[other], request, task, zoo)
            )
    if problems:
        hint = f"use {' or '.join(instead)} instead" if instead else "leave it out"
        raise RecipeError(problems, hint=hint)


def _lack(score: Score, request: Request, task: Task, zoo: Zoo) -> str | None:
    """What a score lacks whatever the models are; None if it lacks nothing."""
    if task.kind not in score.kinds:
        return f"the task is a {task.kind}, the score is for {' and '.join(score.kinds)}"
    if "features" in score.needs and request.sample.keep == "moments":
        return "it needs the features, and sample.keep says moments"
    entries = zoo.entries.values()
    if "logits" in score.needs and not any(
        isinstance(entry, FeatureEntry) or entry.head is not None for entry in entries
    ):
        return "it needs logits: no model of the zoo names its 'head'"
    return None
