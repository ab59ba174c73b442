"""The numbers of a finished job, ``metrics.json``, as types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from stockpot.errors import InputError
from stockpot.recycling.schema import Divergence, How, Point
from stockpot.results import ResultPart

METRICS_FILE = "metrics.json"


class WeightScores(ResultPart):
    """Scores of weights: on validation rows, on held-out rows where there are any, both by the
    recipe's metric; ``plain_score``: on validation rows by the task's default metric.
    """

    id_accuracy: float
    accuracy: float | None = None
    id_by_domain: Mapping[str, float] = Field(default_factory=dict)
    plain_score: float | None = None
    usable: bool = True

    @property
    def tested(self) -> float:
        """The score on held-out rows, where there are any."""
        assert self.accuracy is not None
        return self.accuracy


class Way(ResultPart):
    """How far a run went from the base: median cosine of its matrices, relative distance."""

    cosine: float
    distance: float


class JobMetrics(ResultPart):
    """What a job says about itself. A run has ``best``, ``average`` and perhaps ``swad`` weights,
    one that is merged during training ``last``; what combines has ``members`` and ``how``.
    """

    best: WeightScores | None = None
    average: WeightScores | None = None
    swad: WeightScores | None = None
    last: WeightScores | None = None
    members: tuple[str, ...] = ()
    how: How = How()
    way: Way | None = None
    best_step: int | None = None
    steps: int = 0
    seconds: float = 0.0
    history: tuple[Point, ...] = ()
    diverged: Divergence | None = None

    @property
    def main(self) -> WeightScores:
        """Scores of the weights that the job is for."""
        main = self.best or self.last
        assert main is not None
        return main

    def of(self, take: str) -> WeightScores:
        """Scores of its "best", "average", "swad" or "last" weights."""
        scored = getattr(self, take)
        assert isinstance(scored, WeightScores)
        return scored


def read_metrics(folder: Path) -> JobMetrics:
    """The numbers of a finished job; ``InputError`` where another version wrote them otherwise."""
    path = folder / METRICS_FILE
    try:
        return JobMetrics.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(
            f"{path} is not what this version of stockpot writes", hint=f"remove {folder}"
        ) from error
