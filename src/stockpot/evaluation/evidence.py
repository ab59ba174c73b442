"""What is known about one average of weights: the measurements a diagnosis is made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Literal

from stockpot.errors import InputError

BatchNorm = Literal["none", "frozen", "reestimate", "averaged"]
PairKind = Literal["same init", "different init", "base to average"]


@dataclass(frozen=True)
class Member:
    """One run in the average. Accuracies are 0 to 1; what was not measured is None.

    ``accuracy``: held-out domain; ``id_accuracy``: validation rows of the training domains.
    ``init``: "base", or the name of the auxiliary the run started from. ``cosine``: median
    per-layer cosine to the base. ``distance``: norm of (weights - base) over norm of base.
    ``fall``: best validation accuracy of the run minus its last.
    """

    name: str
    accuracy: float
    init: str = "base"
    id_accuracy: float | None = None
    learning_rate: float | None = None
    cosine: float | None = None
    distance: float | None = None
    fall: float | None = None


@dataclass(frozen=True)
class PairBarrier:
    """Barrier (see ``connectivity.barrier``) between two members, on one or both splits.

    ``examples_id``, ``examples_ood``: how many examples each was measured on, where known; few
    examples make barriers out of noise.
    """

    first: str
    second: str
    kind: PairKind
    id: float | None = None
    ood: float | None = None
    examples_id: int | None = None
    examples_ood: int | None = None


@dataclass(frozen=True)
class Evidence:
    """Everything measured about one average.

    ``average``, ``average_id``, ``ensemble``: accuracy of averaged weights and of averaged
    predictions. ``low``, ``high``: interval of the average minus its members' mean (paired).
    ``head_shared``: all members started from one head. ``batchnorm``: what happens to running
    statistics; ``average_reestimated``: accuracy of the average with statistics measured anew.
    """

    members: tuple[Member, ...]
    average: float
    average_id: float | None = None
    ensemble: float | None = None
    low: float | None = None
    high: float | None = None
    ratio_error: float | None = None
    barriers: tuple[PairBarrier, ...] = ()
    head_shared: bool | None = None
    batchnorm: BatchNorm = "none"
    average_reestimated: float | None = None
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        if not self.members:
            raise InputError("an average without members cannot be diagnosed")
        if (self.low is None) != (self.high is None):
            raise InputError("an interval needs both its low and its high end")

    @property
    def mean_member(self) -> float:
        return fmean(member.accuracy for member in self.members)

    @property
    def gap(self) -> float:
        """Average of weights minus mean member."""
        return self.average - self.mean_member

    @property
    def ensemble_gain(self) -> float | None:
        """Prediction ensemble minus mean member: the go / no-go number (None if not measured)."""
        return None if self.ensemble is None else self.ensemble - self.mean_member

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        values["members"] = [
            {key: value for key, value in member.items() if value is not None}
            for member in values["members"]
        ]
        values["barriers"] = list(values["barriers"])
        derived = {"mean_member": self.mean_member, "ensemble_gain": self.ensemble_gain}
        return {key: value for key, value in {**values, **derived}.items() if value is not None}


@dataclass(frozen=True)
class Thresholds:
    """Where a measurement starts to count, in accuracy (0 to 1) unless said otherwise.

    ``ensemble_gain``: weight averaging removes variance, and a prediction ensemble shows how much
    there is; below 3 points there is little to remove. ``barrier_id``, ``barrier_ood``: two points
    on validation, three on the (usually smaller, harder) held-out domain, and at least two standard
    errors of two models that disagree on ``disagreement`` of the examples. ``cosine``: unrelated
    weights of one architecture have median layer cosines below 0.01, far relatives about 0.4.
    ``ratio_error``: below it two members err on nearly the same examples.
    ``distance``: times the siblings' median distance from the base.
    """

    difference: float = 0.005
    ensemble_gain: float = 0.03
    barrier_id: float = 0.02
    barrier_ood: float = 0.03
    disagreement: float = 0.1
    cosine: float = 0.1
    ratio_error: float = 0.15
    distance: float = 2.5
    fall: float = 0.01
    weak_member: float = 0.05
    reestimated: float = 0.01


DEFAULTS = Thresholds()


@dataclass(frozen=True)
class Finding:
    """One thing that explains a result: a short code and a sentence."""

    code: str
    words: str


@dataclass(frozen=True)
class Diagnosis:
    """Verdict on an average, its main reason, further findings, and the numbers behind them."""

    verdict: Literal["helped", "no difference", "hurt"]
    code: str
    words: str
    findings: tuple[Finding, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "code": self.code,
            "words": self.words,
            "findings": [asdict(finding) for finding in self.findings],
            "evidence": self.evidence,
        }
