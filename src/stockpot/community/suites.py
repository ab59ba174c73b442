"""A maintainer's rule by an evaluator: "my suite must not drop by more than x"."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from stockpot.checkpoints import open_checkpoint
from stockpot.declared import Declared
from stockpot.errors import EvaluationError, InputError
from stockpot.evaluation import Interval
from stockpot.evaluators.contract import Evaluator, Scores
from stockpot.evaluators.spec import Constraint, load_evaluator


class MaintainerSuite(Declared):
    """An evaluator on which every version of a line has to hold, as it is: no probe is fitted."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$", description="one word")
    evaluate: str | Mapping[str, Any] = Field(
        description="an evaluator's YAML file, or its content; scores of rows between 0 and 1"
    )
    lose_at_most: float = Field(
        0.01, ge=0, le=1, description="a loss of score that is acceptable, with 95 % confidence"
    )
    root: str = Field(".", description="folder at which relative paths start")

    def check(self) -> None:
        """Raise ``InputError`` for an evaluator that cannot be, before any model is scored."""
        evaluator, constraints = self._opened()
        with evaluator:
            if constraints:
                raise InputError(f"task '{self.name}': name each evaluator as a task of its own")

    def scores(self, folder: Path) -> Scores:
        """Score of each row, (N,). Raises ``InputError`` where there is none between 0 and 1."""
        from stockpot.community.components import SUM

        if (folder / SUM).exists():
            raise InputError(
                f"task '{self.name}': an evaluator scores weights, and this is a sum of components",
                hint="measure components by tasks with a backbone",
            )
        evaluator, _ = self._opened()
        try:
            with evaluator, open_checkpoint(folder) as model:
                evaluator.prepare(model)
                scores = evaluator.evaluate(model)
        except EvaluationError as error:
            raise InputError(f"task '{self.name}': {error.message}") from error
        if isinstance(scores, float):
            raise InputError(
                f"task '{self.name}': one number a model has no interval",
                hint="let the evaluator give a score a row",
            )
        if scores.min() < 0 or scores.max() > 1:
            worst = float(scores[np.argmax(np.abs(scores - 0.5))])
            raise InputError(
                f"task '{self.name}': a score of {worst:g}, expected scores between 0 and 1"
            )
        return scores

    def holds(self, gap: Interval) -> bool:
        """Whether a difference to the current version is above the limit all over its interval."""
        return gap.low >= -self.lose_at_most - 1e-12

    @property
    def limit(self) -> str:
        """What may be lost, in words."""
        return f"{self.lose_at_most:.1%} may be lost with 95 % confidence"

    def _opened(self) -> tuple[Evaluator, tuple[Constraint, ...]]:
        root = Path(self.root)
        source = self.evaluate
        return load_evaluator(root / source if isinstance(source, str) else source, root=root)
