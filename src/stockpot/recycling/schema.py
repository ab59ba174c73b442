"""What ``recycle`` leaves in ``results.json``, as types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from stockpot.evaluation.claims import Claim, Covers, Verdict
from stockpot.evaluation.evidence import Finding, PairKind
from stockpot.evaluation.intervals import Interval
from stockpot.evaluation.selection import Step
from stockpot.results import ResultPart, VerbResults

Group = Literal["reference", "single", "average", "oracle"]


class MetricWords(ResultPart):
    """How a metric is shown."""

    label: str
    unit: str
    higher_is_better: bool


class TaskResult(ResultPart):
    """The data. ``examples``: rows by domain; ``splits``: rows by part, where the data has parts;
    ``groups``: how many groups, where it has any; ``skipped``: files that could not be read.
    ``shared``: rows kept whose input stands in another domain, class or fixed split as well.
    """

    name: str
    kind: str
    metric: str
    metrics: Mapping[str, MetricWords] = Field(default_factory=dict)
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    examples: Mapping[str, int]
    skipped: tuple[str, ...] = ()
    judged_on: str = "held-out domains"
    splits: Mapping[str, int] | None = None
    groups: int | None = None
    shared: int | None = None


class BackboneResult(ResultPart):
    """The base: how it is built, and its sizes in numbers."""

    kind: str
    name: str
    parameters: int
    trained_parameters: int


class Point(ResultPart):
    """One evaluation of a run on validation rows."""

    step: int
    validation: float | Mapping[str, float]
    by_domain: Mapping[str, float] = Field(default_factory=dict)
    validation_loss: float | None = None
    average_validation: float | Mapping[str, float] | None = None
    loss: float | None = None


class Divergence(ResultPart):
    """Where a run became useless, and how."""

    step: int
    learning_rate: float
    what: str


class RunResult(ResultPart):
    """One fine-tuning. ``id_accuracy``: on validation rows, ``accuracy``: on what it is judged on,
    both by the recipe's metric, higher is better.
    """

    id: str
    label: str
    pool: str
    init: str
    hyperparameters: Mapping[str, JsonValue]
    id_accuracy: float
    accuracy: float
    steps: int
    seconds: float
    history: tuple[Point, ...] = ()
    diverged: Divergence | None = None


class LeftOutRun(ResultPart):
    """A run that no average wants, and why."""

    member: str
    why: str


class FrontierPoint(ResultPart):
    """WiSE-FT at one coefficient; None where the outputs are not finite."""

    coefficient: float
    loss: float | None
    validation: float | None
    held_out: float | None


class How(ResultPart):
    """How a protocol came to its weights: what it left out, chose and tried.

    ``instead``: why the linear probe stands in for it. ``members``, ``score``, ``trace``: of a
    greedy soup. ``coefficient``, ``frontier``: of WiSE-FT. ``coefficients``, ``factor`` and what
    follows stand in files of protocols that are no more.
    """

    left_out: tuple[LeftOutRun, ...] = ()
    instead: str | None = None
    greedy_on: str | None = None
    members: tuple[str, ...] = ()
    score: float | None = None
    trace: tuple[Step, ...] = ()
    coefficient: float | None = None
    coefficients: Mapping[str, float] = Field(default_factory=dict)
    frontier: tuple[FrontierPoint, ...] = ()
    factor: float | None = None
    factors: Mapping[str, float] = Field(default_factory=dict)
    loss: float | None = None
    losses: tuple[float | None, ...] | Mapping[str, float | None] = ()

    def joined(self, other: How) -> How:
        """Both, where both speak the other's."""
        own = {name: getattr(other, name) for name in other.model_fields_set}
        return self.model_copy(update=own)


class ModelResult(ResultPart):
    """The weights, or joined predictions, of one protocol in one cell."""

    protocol: str
    label: str
    selection: str
    members: tuple[str, ...]
    id_accuracy: float | None
    accuracy: float
    steps: int
    seconds: float
    forward_cost: int
    oracle: bool
    how: How = How()


class Curve(ResultPart):
    """The score on the straight line from weights ``a`` to ``b``, at each of ``lambdas``: ``id``
    on validation rows, ``ood`` on what is judged.
    """

    a: str
    b: str
    kind: PairKind | Literal["base to best run"]
    init: str | None = None
    lambdas: tuple[float, ...]
    id: tuple[float, ...]
    ood: tuple[float, ...]
    barrier_id: float
    barrier_ood: float
    examples_id: int | None = None
    examples_ood: int | None = None


class DiversityResult(ResultPart):
    """Members of a pool, their ensemble and their average, on the same rows."""

    pool: str
    ratio_error: float | None
    ensemble: float
    mean_member: float
    average: float
    ensemble_gain: float


class DiagnosisResult(ResultPart):
    """Why an average is where it is; ``evidence``: the measurements, see ``SoupEvidence``."""

    protocol: str
    verdict: str
    code: str
    words: str
    findings: tuple[Finding, ...] = ()
    evidence: Mapping[str, JsonValue] = Field(default_factory=dict)


class CellResult(ResultPart):
    """One held-out set and one trial. ``examples``: rows by part and domain."""

    held_out: str | None
    held_out_domains: tuple[str, ...] = ()
    judged_on: str = "held-out domains"
    examples: Mapping[str, Mapping[str, int]] = Field(default_factory=dict)
    trial: int
    runs: tuple[RunResult, ...] = ()
    models: tuple[ModelResult, ...] = ()
    connectivity: tuple[Curve, ...] = ()
    diversity: tuple[DiversityResult, ...] = ()
    diagnosis: tuple[DiagnosisResult, ...] = ()


class RowGap(ResultPart):
    """A difference to another protocol: of a claim what its file says of it, and ``words``.

    Files that were written before differences were claims have ends and words alone.
    """

    mean: float
    low: float
    high: float
    against: str
    subject: str | None = None
    subject_label: str | None = None
    against_label: str | None = None
    rows: str | None = None
    metric: str | None = None
    level: float | None = None
    covers: Covers | None = None
    trials: int | None = None
    domains: tuple[str, ...] | None = None
    comparisons: int | None = None
    verdict: Verdict | None = None
    words: str | None = None


class RowDifferences(ResultPart):
    """Of one row against the reference: over all domains, None for the reference, and by domain."""

    difference: RowGap | None = None
    domain_differences: Mapping[str, RowGap] = Field(default_factory=dict)


class TableRow(RowDifferences):
    """A protocol over all cells: score with interval, by domain, against the reference, and cost.

    ``also``: by the other metrics. ``covers``: what the interval says nothing about.
    ``forward_cost``: of a prediction, in predictions of one model, in the cell with the most.
    """

    protocol: str
    label: str
    group: Group
    steps: int | float
    seconds: float
    forward_cost: int
    domains: Mapping[str, Interval]
    mean: float
    low: float
    high: float
    covers: str | None = None
    also: Mapping[str, Interval] = Field(default_factory=dict)


class FamilyNode(ResultPart):
    """Weights in the family tree."""

    id: str
    label: str
    kind: str


class FamilyEdge(ResultPart):
    """From parent to child; ``weight``: its share in an average."""

    start: str = Field(alias="from")
    end: str = Field(alias="to")
    role: str
    weight: float | None


class FamilyTree(ResultPart):
    """Where the final weights come from."""

    nodes: tuple[FamilyNode, ...] = ()
    edges: tuple[FamilyEdge, ...] = ()


class WildResult(ResultPart):
    """The evidence that weights from elsewhere descend from the base, see ``Lineage``."""

    name: str
    verdict: str
    reason: str
    cosine: float | None
    adjusted: float | None
    distance: float
    largest: float
    layers: int
    foreign: tuple[str, ...]
    doubt: str | None


class Distance(ResultPart):
    """How far a candidate is behind the best by validation, and up to where that says nothing.

    ``error``: its standard error, in files of version 0.1.0 and before.
    """

    mean: float
    margin: float | None = None
    error: float | None = None


class CandidateResult(ResultPart):
    """One row that could be kept, see ``choice.CandidateRow``."""

    protocol: str
    label: str
    validation: float
    behind: Distance
    cross_fitted: bool
    decisions: int
    is_averaged: bool = False
    runs: float | None = None
    starts: float | None = None
    steps: float
    level: bool
    came_to_nothing: bool = False
    lost: bool = False


class RunCounts(ResultPart):
    """Of the runs: how many, diverged, and of the others never better than their start on
    validation.
    """

    total: int
    no_better: int
    diverged: int


class MemberCounts(ResultPart):
    """Of the runs that the final weights could hold: how many there are and how many are in, of all
    and of those that started from auxiliary weights. ``different``: with weights of their own.
    ``is_average``: whether different weights were averaged at all.
    """

    runs: int
    members: int
    auxiliary_runs: int
    auxiliary_members: int
    different: int | None = None
    is_average: bool = True


class FinalResult(ResultPart):
    """The model that is kept, and why.

    ``validation`` and ``claims``: against simpler ones, on validation rows and on rows that chose
    nothing (None in files of before models were chosen); ``below``: protocols that validation puts
    above it; ``members``: of an average, None where the protocol holds one run by design.
    ``instead``: why the weights are the linear probe's, where the protocol came to nothing; the
    claims are the linear probe's then. ``constant``: against the best constant answer, on rows that
    chose nothing; None for metrics that have none.
    """

    protocol: str
    chosen: str | None = None
    best: str | None = None
    auto: str = ""
    candidates: tuple[CandidateResult, ...] = ()
    validation: tuple[Claim, ...] = ()
    below: tuple[str, ...] = ()
    label: str
    folder: str = "model"
    train_on: str | None = None
    trained_on: str | None = None
    why_trained_on: str | None = None
    why: str
    instead: str | None = None
    runs: RunCounts | None = None
    members: MemberCounts | None = None
    claims: tuple[Claim, ...] | None = None
    constant: Claim | None = None


class RecycleResults(VerbResults):
    """All that a run of ``recycle`` has to say. ``seconds``: of all its jobs."""

    current: ClassVar[int] = 2

    title: str
    task: TaskResult
    backbone: BackboneResult
    cells: tuple[CellResult, ...]
    table: tuple[TableRow, ...]
    averages: tuple[Claim, ...] = ()
    lineage: FamilyTree = FamilyTree()
    wild: tuple[WildResult, ...] = ()
    final: FinalResult
    recipe: str
    versions: Mapping[str, str]
    seconds: float | None = None

    def row(self, protocol: str) -> TableRow | None:
        """A protocol's row of the table, where it has one."""
        return next((row for row in self.table if row.protocol == protocol), None)

    @property
    def trials(self) -> int:
        """How many trials were made."""
        return len({cell.trial for cell in self.cells})
