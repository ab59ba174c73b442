"""Measure versions and candidates on a maintainer's tasks, each model once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stockpot.community.tasks import MaintainerTask, Scores
from stockpot.evaluation import Estimate, paired_bootstrap
from stockpot.evaluation.connectivity import barrier
from stockpot.files import file_digest


@dataclass
class Meter:
    """Scores on all tasks, remembered by the digest of the weights."""

    tasks: Sequence[MaintainerTask]
    _known: dict[tuple[str, str], Scores] = field(default_factory=dict)

    def scores(self, task: MaintainerTask, digest: str, folder: Path) -> Scores:
        """Scores of the model in ``folder``, whose weights have ``digest``; a sum of tangent
        components beside them makes it another model."""
        from stockpot.community.components import SUM

        beside = folder / SUM
        key = (task.name, digest + (file_digest(beside) if beside.exists() else ""))
        if key not in self._known:
            self._known[key] = task.scores(folder)
        return self._known[key]

    def means(self, digest: str, folder: Path) -> dict[str, dict[str, float]]:
        """Per task the mean score and its 95 % interval over other test rows."""
        found = {}
        for task in self.tasks:
            own = {"model": {(task.name, 0): self.scores(task, digest, folder)}}
            found[task.name] = paired_bootstrap(own)["model"].overall.to_json()
        return found

    def against(
        self, task: MaintainerTask, candidate: tuple[str, Path], current: tuple[str, Path]
    ) -> Estimate:
        """The candidate's score and its difference to the current version, on the same rows."""
        cell = (task.name, 0)
        scores = {
            "candidate": {cell: self.scores(task, *candidate)},
            "current": {cell: self.scores(task, *current)},
        }
        return paired_bootstrap(scores, baseline="current")["candidate"]


def is_worse(estimate: Estimate, tolerance: float) -> bool:
    """Whether a candidate is worse by more than ``tolerance``, and not by chance alone."""
    gap = estimate.difference
    return gap is not None and gap.mean < -tolerance and gap.high < 0.0


def fall(lambdas: list[float], values: list[Scores]) -> float:
    """Barrier of the mean score along a line of models."""
    return barrier(lambdas, [float(each.mean()) for each in values])


def task_json(estimate: Estimate) -> dict[str, object]:
    """Numbers of a comparison for a document."""
    gap = estimate.difference
    value: dict[str, object] = dict(estimate.overall.to_json())
    if gap is not None:
        value["difference"] = {"mean": gap.mean, "low": gap.low, "high": gap.high}
    return value


def words(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Mean scores in one line."""
    return ", ".join(f"{name} {each['mean']:.1%}" for name, each in scores.items())
