"""What ``rank`` leaves in ``results.json``, as types."""

from __future__ import annotations

from collections.abc import Mapping

from stockpot.evaluation.intervals import Interval
from stockpot.ranking.posterior.result import EvidenceUse
from stockpot.results import ResultPart, VerbResults


class RankTask(ResultPart):
    """The data. ``history_name``: with a hash of data and training; ``examples``: by domain;
    ``judged_by``: how many examples a fine-tuning is judged by.
    """

    name: str
    history_name: str
    kind: str
    modality: str
    metric: str
    domains: tuple[str, ...]
    held_out: tuple[str, ...]
    classes: tuple[str, ...]
    examples: Mapping[str, int]
    judged_by: int


class Belief(ResultPart):
    """What is expected of one model, with 90 % intervals; ``rank``: 1 is best.

    ``value``: in the metric's units, None where nothing says what to expect.
    """

    rank: Interval
    value: Interval | None
    p_best: float
    reasons: tuple[str, ...]


class TunedResult(ResultPart):
    """A fine-tuning that was done.

    ``value``: accuracy (or R2) on what models are judged by; ``examples``: how many those are;
    ``probe``: the same of the linear probe before training. ``steps`` of the whole ``of``.
    """

    model: str
    value: float
    probe: float | None
    examples: int
    steps: int
    of: int
    seconds: float
    reused: bool

    @property
    def whole(self) -> bool:
        """Whether it went to the last step."""
        return self.steps == self.of


class ModelCost(ResultPart):
    """Sizes and seconds; ``megabytes``: of weights, gradient and optimizer while it is trained."""

    parameters: int | None
    dimensions: int | None
    feature_seconds: float | None
    tuning_seconds: float | None
    megabytes: float | None


HELD_OUT = ("loo_ridge", "knn")
"""Scores in the task's own unit: what a head reaches on examples that it has not seen."""


class RankedModel(Belief):
    """One model. ``before``: what was expected before any fine-tuning of this run; ``known``: its
    result on this very task in the history; ``scores``: transferability scores by name;
    ``untrained``: whether its weights are an initialisation's.
    """

    name: str
    before: Belief
    metadata: Mapping[str, float | str]
    scores: Mapping[str, float]
    untrained: bool = False
    warnings: Mapping[str, str]
    tuned: TunedResult | None
    known: float | None
    cost: ModelCost

    @property
    def measured(self) -> float | None:
        """Its real result on this task, where one is known."""
        return self.tuned.value if self.tuned is not None and self.tuned.whole else self.known

    @property
    def head(self) -> float | None:
        """What the better head on its features reaches on examples that it has not seen."""
        return max((self.scores[name] for name in HELD_OUT if name in self.scores), default=None)


class UnrankedModel(ResultPart):
    """A model that could not be used, and why."""

    model: str
    reason: str


class SampleRound(ResultPart):
    """How far the ranking depended on the examples that were drawn, see ``Stability``."""

    agreement: float
    same_best: float
    rows: int
    settled: bool


class SampleResult(ResultPart):
    """The examples that the scores saw; ``layers``: the best one, by model."""

    rows: int
    rounds: tuple[SampleRound, ...]
    failed: tuple[UnrankedModel, ...]
    layers: Mapping[str, int]


class HistorySize(ResultPart):
    """How much was known of other tasks."""

    models: int
    tasks: int


class BudgetResult(ResultPart):
    """Seconds of fine-tuning that were allowed and used."""

    seconds: float | None
    select: str
    used: float


class RungResult(ResultPart):
    """One round of successive halving: results after ``steps``, and who stayed."""

    steps: int
    measured: Mapping[str, float]
    kept: tuple[str, ...]


class ProposedModel(ResultPart):
    """A public model that was not run. ``rank``: the place expected of it among all ``of`` models
    that were looked at, from its results on ``tasks`` public tasks and its ``facts``;
    ``milliseconds``: for an example here, estimated from multiplications.
    """

    name: str
    kind: str
    rank: float
    of: int
    tasks: int
    milliseconds: float | None
    facts: Mapping[str, float | str]


class NextModel(ResultPart):
    """The model to fine-tune next, and how long that will take."""

    model: str
    seconds: float


class PredictorResult(ResultPart):
    """A predicted order against the real one: weighted Kendall tau (None: undefined); by how much
    the model that it puts ``first`` is worse than the best.
    """

    predictor: str
    tau: float | None
    regret: float
    first: str


class OrdersResult(ResultPart):
    """Real results of ``models``, their predicted ranks, and every predictor; ``noise``: the tau
    that a perfect predictor could expect, None for other metrics than accuracy.
    """

    models: tuple[str, ...]
    real: tuple[float, ...]
    predicted: tuple[float, ...]
    predictors: tuple[PredictorResult, ...]
    noise: float | None


class RankResults(VerbResults):
    """All that ``rank`` has to say; ``models``: best first; ``notes``: what to know to read it."""

    title: str
    task: RankTask
    models: tuple[RankedModel, ...]
    failed: tuple[UnrankedModel, ...]
    sample: SampleResult
    history: HistorySize | None
    evidence: tuple[EvidenceUse, ...]
    budget: BudgetResult
    rungs: tuple[RungResult, ...]
    next: NextModel | None
    verified: OrdersResult | None
    versions: Mapping[str, str]
    seconds: float
    notes: tuple[str, ...] = ()
    proposals: tuple[ProposedModel, ...] = ()

    @property
    def by_value(self) -> bool:
        """Whether results are expected in the metric's units, and not as ranks only."""
        return all(model.value is not None for model in self.models)


class RankPlan(ResultPart):
    """What ``rank`` would do; ``history``: models and tasks; ``budget``: in seconds."""

    task: str
    metric: str
    judged_by: int
    models: int
    run: tuple[str, ...]
    not_run: tuple[str, ...]
    failed: tuple[UnrankedModel, ...]
    sample: Mapping[str, int | str]
    history: tuple[int, int] | None
    known: Mapping[str, float]
    budget: float | None
    notes: tuple[str, ...]
    proposals: tuple[ProposedModel, ...]
