"""What a comparison of continual learning leaves in ``results.json``, as types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue

from stockpot.evaluation.intervals import Difference, Interval
from stockpot.results import ResultPart, VerbResults


class ContinualData(ResultPart):
    """The data, and the hash of its content."""

    name: str
    classes: tuple[str, ...]
    fingerprint: str


class ContinualBackbone(ResultPart):
    """The base; ``trained_from``: the first layer that is trained, None for all of them."""

    name: str
    trained_from: str | None
    parameters: int
    trained_parameters: int


class TrialMean(ResultPart):
    """Mean over trials; ``sd``: standard deviation between them, None for one."""

    mean: float
    sd: float | None


class MethodNotes(ResultPart):
    """Mean seconds for all predictions; of sums of statistics: their penalty by trial (None: none
    was chosen), seconds of solving, bytes, and largest gaps to joint training and to retraining.
    """

    seconds: float
    penalty: tuple[float | None, ...] = ()
    solve_seconds: float = 0.0
    component_bytes: int = 0
    gap_to_joint: float = 0.0
    gap_to_retrained: float = 0.0


class MethodResult(ResultPart):
    """One method in one setting; measures as in :class:`.Measures`, in [0, 1].

    ``finals``: by trial; ``final``: over trials, with a 95 % interval; ``difference``: to the
    baseline, None for itself; ``seconds``: of training, a trial; ``cost``: of a prediction.
    """

    method: str
    label: str
    group: str
    cost: str
    finals: tuple[float, ...]
    incremental: TrialMean | None
    forgetting: TrialMean | None
    backward: TrialMean | None
    forward: TrialMean | None
    steps: tuple[float, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    seconds: float | None
    notes: MethodNotes
    final: Interval
    covers: str
    difference: Difference | None


class MethodPair(ResultPart):
    """What ``method`` has more than ``against``, with a 95 % interval and in words."""

    method: str
    against: str
    mean: float
    low: float
    high: float
    words: str


class PublishedLoss(ResultPart):
    """Points that a method loses to joint training of its kind, here and in print."""

    method: str
    against: str
    lost: float
    published: float


class SettingResult(ResultPart):
    """All methods on one stream of tasks. ``train`` and ``test``: how many rows."""

    name: str
    mode: Literal["data", "class", "task"]
    tasks: int
    classes_per_task: tuple[int, ...]
    train: int
    test: int
    warnings: tuple[str, ...]
    methods: tuple[MethodResult, ...]
    comparisons: tuple[MethodPair, ...]
    published: tuple[PublishedLoss, ...] = ()

    def label(self, method: str) -> str:
        """How a method is called."""
        return next(one.label for one in self.methods if one.method == method)


class ContinualResults(VerbResults):
    """All that a comparison has to say. ``seconds``: of all its jobs."""

    kind: Literal["continual"]
    title: str
    task: ContinualData
    backbone: ContinualBackbone
    trials: int
    baseline: str
    settings: tuple[SettingResult, ...]
    recipe: Mapping[str, JsonValue]
    seconds: float
    versions: Mapping[str, str]
