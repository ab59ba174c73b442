"""What is known about one average of weights: the measurements a diagnosis is made from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Literal

from stockpot.errors import InputError
from stockpot.evaluation.intervals import Interval

BatchNorm = Literal["none", "frozen", "reestimate", "averaged"]
PairKind = Literal["same init", "different init", "base to average"]
Position = Literal["ahead", "no difference", "behind", "not measured"]


@dataclass(frozen=True)
class Member:
    """One run in the average. Accuracies are 0 to 1; what was not measured is None.

    ``accuracy``: held-out domain; ``id_accuracy``: validation rows of the training domains.
    ``init``: "base", or the name of the auxiliary the run started from. ``cosine``: median
    per-layer cosine to the base. ``distance``: norm of (weights - base) over norm of base.
    ``fall``: best validation accuracy of the run minus its last, on ``validated`` rows.
    ``foreign``: the run descends from weights that somebody else trained; only of those can it be
    asked whether they come from the base. ``behind``: mean of the other members minus this one, on
    the held-out rows.
    """

    name: str
    accuracy: float
    init: str = "base"
    id_accuracy: float | None = None
    learning_rate: float | None = None
    cosine: float | None = None
    distance: float | None = None
    fall: float | None = None
    validated: int | None = None
    foreign: bool = False
    behind: Interval | None = None


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
class SoupEvidence:
    """Everything measured about one average, for these very weights.

    ``average``, ``average_id``, ``ensemble``: accuracy of averaged weights and of averaged
    predictions. Paired intervals over the held-out rows, each None where it was not measured, and
    then nothing is concluded from it: ``low``, ``high`` of the average minus its members' mean,
    ``gain`` of the prediction ensemble minus that mean, ``shortfall`` of the ensemble minus the
    average, ``reestimated`` of the average with BatchNorm statistics measured anew minus the
    average. ``ratio_error_high``: upper end of the ratio-error's interval.
    ``head_shared``: all members started from one head. ``batchnorm``: what happens to running
    statistics.
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
    reestimated: Interval | None = None
    gain: Interval | None = None
    shortfall: Interval | None = None
    ratio_error_high: float | None = None
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

    A rule fires where the whole interval of its measurement lies beyond the threshold.
    ``ensemble_gain``: weight averaging removes variance, and a prediction ensemble shows how much
    there is; below 3 points there is little to remove. ``barrier_id``, ``barrier_ood``: two points
    on validation, three on the (usually smaller, harder) held-out domain, beyond two standard
    errors of two models that disagree on ``disagreement`` of the examples. ``shortfall``: what an
    average of weights must lack at least of the ensemble. ``cosine``: unrelated weights of one
    architecture have median layer cosines below 0.01, far relatives about 0.4. ``ratio_error``:
    below it two members err on nearly the same examples. ``distance``: times the siblings' median
    distance from the base.
    """

    ensemble_gain: float = 0.03
    shortfall: float = 0.01
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
    """An average against its members' mean on these rows, the main reason, and further findings.

    ``verdict`` speaks of these weights: ``ahead``, ``behind``, ``no difference`` that the rows
    could show, or ``not measured``. Whether averaging such runs helps is a claim over trainings.
    """

    verdict: Position
    code: str
    words: str
    findings: tuple[Finding, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)
