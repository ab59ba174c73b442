"""Measure versions and candidates on a maintainer's tasks, each model once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stockpot.bounded import GIGABYTE, ChildLimits, run_bounded
from stockpot.community.suites import MaintainerSuite
from stockpot.community.tasks import MaintainerTask, Scores
from stockpot.errors import InputError, LimitError
from stockpot.evaluation import Estimate, paired_bootstrap
from stockpot.evaluation.connectivity import barrier
from stockpot.files import file_digest

SECONDS = 3600.0
"""Seconds that measuring one model on one task may take."""
_ROOM, _COPIES = 4 * GIGABYTE, 8
"""Memory for the libraries and the data of a task, and how often a model may lie in it."""


@dataclass
class Meter:
    """Scores on all tasks, remembered by the digest of the weights.

    Models are measured in a child process: their configs were written by contributors. It may have
    ``memory`` bytes (by default 4 GiB and eight times the model's files) and ``seconds``.
    """

    tasks: Sequence[MaintainerTask | MaintainerSuite]
    memory: int | None = None
    seconds: float = SECONDS
    _known: dict[tuple[str, str], Scores | InputError] = field(default_factory=dict)

    def scores(self, task: MaintainerTask | MaintainerSuite, digest: str, folder: Path) -> Scores:
        """Scores of the model in ``folder``, whose weights have ``digest``."""
        key = _key(task, digest, folder)
        if key not in self._known:
            self.prepare([(digest, folder)], [task])
        known = self._known[key]
        if isinstance(known, InputError):
            raise self._known.pop(key)  # type: ignore[misc]
        return known

    def prepare(
        self,
        models: Sequence[tuple[str, Path]],
        tasks: Sequence[MaintainerTask | MaintainerSuite] | None = None,
    ) -> None:
        """Measure several models, given by digest and folder, in one child process."""
        wanted = {
            _key(task, digest, folder): (task, folder)
            for task in (self.tasks if tasks is None else tasks)
            for digest, folder in models
            if not isinstance(self._known.get(_key(task, digest, folder)), np.ndarray)
        }
        if not wanted:
            return
        size = max(_size(folder) for _, folder in wanted.values())
        limits = ChildLimits(self.memory or _ROOM + _COPIES * size, self.seconds * len(wanted))
        answers: list[list[float] | str]
        try:
            answers = run_bounded(measure, list(wanted.values()), limits=limits, what="measuring")
        except LimitError as error:
            answers = [str(error)] * len(wanted)
        for key, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, str):
                self._known[key] = InputError(answer)
            else:
                self._known[key] = np.asarray(answer, np.float64)

    def means(self, digest: str, folder: Path) -> dict[str, dict[str, float]]:
        """Per task the mean score and its 95 % interval over other test rows."""
        found = {}
        for task in self.tasks:
            own = {"model": {(task.name, 0): self.scores(task, digest, folder)}}
            found[task.name] = paired_bootstrap(own)["model"].overall.to_json()
        return found

    def against(
        self,
        task: MaintainerTask | MaintainerSuite,
        candidate: tuple[str, Path],
        current: tuple[str, Path],
    ) -> Estimate:
        """The candidate's score and its difference to the current version, on the same rows."""
        cell = (task.name, 0)
        scores = {
            "candidate": {cell: self.scores(task, *candidate)},
            "current": {cell: self.scores(task, *current)},
        }
        return paired_bootstrap(scores, baseline="current")["candidate"]


def measure(
    asked: Sequence[tuple[MaintainerTask | MaintainerSuite, Path]],
) -> list[list[float] | str]:
    """The scores of models in folders on tasks, or why there are none."""
    found: list[list[float] | str] = []
    for task, folder in asked:
        try:
            found.append([float(score) for score in task.scores(folder)])
        except InputError as error:
            found.append(error.message)
    return found


def _key(task: MaintainerTask | MaintainerSuite, digest: str, folder: Path) -> tuple[str, str]:
    """A sum of tangent components beside the weights makes them another model."""
    from stockpot.community.components import SUM

    beside = folder / SUM
    return task.name, digest + (file_digest(beside) if beside.exists() else "")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


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
