"""What a soup leaves in ``results.json``, as types. Scores are higher-is-better throughout."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from stockpot.evaluation.claims import Claim
from stockpot.evaluation.selection import Shortfall
from stockpot.results import ResultPart, VerbResults


class SoupIngredient(ResultPart):
    """A checkpoint, its content hash, its score as it is, and that of the uniform soup without it.

    ``shares``: mean coefficient by layer group in the kept model.
    """

    name: str
    digest: str
    score: float | None
    without: float | None
    shares: tuple[float, ...]


class SoupTraining(ResultPart):
    """A training that the run had a trainer do. ``init``: what it started from; ``left_out``: why
    its model cannot be used, "" where it can."""

    name: str
    init: str
    data: str | None
    hyperparameters: dict[str, JsonValue]
    seconds: float
    left_out: str


class SoupEvaluator(ResultPart):
    """Who scored. ``metric``: of the scores; ``rows``: how many, None for one number a model."""

    label: str
    digest: str
    metric: str
    rows: int | None
    choosing: int | None
    judging: int | None
    takes_rows: bool


class SoupWatched(ResultPart):
    """A candidate's score by an evaluator that decides nothing, on all of its rows, and that minus
    the score of ``against`` with its margin; None where that cannot be told."""

    label: str
    metric: str
    against: str
    score: float | None
    change: Shortfall | None


class SoupRow(ResultPart):
    """A candidate. ``choose`` and ``judge``: mean scores of those rows, None where not scored.

    ``complete``: whether all choosing rows were scored, else ``choose`` is an estimate. ``behind``:
    the best minus its own on the choosing rows, None where that cannot be told.
    """

    name: str
    label: str
    choose: float | None
    complete: bool
    judge: float | None
    behind: Shortfall | None
    level: bool
    decisions: int
    members: int
    coefficients: tuple[float, ...]
    failure: str | None
    watched: tuple[SoupWatched, ...] = ()


class SoupControl(ResultPart):
    """What a candidate has to beat: ``evaluations`` it had, its scores."""

    name: str
    label: str
    evaluations: int
    choose: float | None
    judge: float | None


class SoupStep(ResultPart):
    """One evaluation, in order. ``best``: the best complete score until then; ``rows``: scored;
    ``spent``: evaluations until then."""

    label: str
    stage: str
    score: float | None
    complete: bool
    best: float | None
    rows: int | None
    seconds: float
    spent: float


class SoupCheck(ResultPart):
    """A constraint: the score of the kept model by another evaluator minus that of ``against``.

    ``low``: the lower end with 95 % confidence; None without scores of rows. ``kept``: it holds.
    """

    label: str
    against: str
    lose_at_most: float
    mean: float | None
    low: float | None
    kept: bool


class SoupGain(ResultPart):
    """A model minus another, on the rows that chose it and on those that judge.

    ``curse``: what of the first is gone on the second.
    """

    against: str
    label: str
    choose: float | None
    judge: float | None

    @property
    def curse(self) -> float | None:
        """The gain seen while choosing that the judging rows do not confirm."""
        if self.choose is None or self.judge is None:
            return None
        return self.choose - self.judge


class KeptSoup(ResultPart):
    """The candidate that is kept and why; ``choose`` and ``judge`` as in its row.

    ``method``, ``parameters``: of the merge method that it is made by, "" where it is a sum of the
    models' differences.
    ``claims``: against the best single model and the uniform soup, on rows that judge.
    """

    name: str
    label: str
    why: str
    choose: float | None
    judge: float | None
    gains: tuple[SoupGain, ...]
    claims: tuple[Claim, ...]
    checks: tuple[SoupCheck, ...]
    method: str = ""
    parameters: dict[str, float] = Field(default_factory=dict)


class SoupCost(ResultPart):
    """``evaluations``: of all choosing rows; ``searched``: models that the search tried;
    ``seconds``: of evaluation, by the results used; ``beyond``: of everything else, in this run;
    ``run``: evaluations begun in this run, those that failed included; the others were known.
    """

    evaluations: float
    searched: int
    seconds: float
    beyond: float
    run: int


class SoupResults(VerbResults):
    """The whole of it. ``groups``: names of the layer groups of the ingredients' ``shares``;
    ``searched``: the best that the search came to minus the best single model; ``trainings``: how
    the ingredients were made, where this run made them."""

    kind: Literal["soup"]
    title: str
    base: str | None
    evaluator: SoupEvaluator
    ingredients: tuple[SoupIngredient, ...]
    groups: tuple[str, ...]
    candidates: tuple[SoupRow, ...]
    kept: KeptSoup
    controls: tuple[SoupControl, ...]
    trace: tuple[SoupStep, ...]
    cost: SoupCost
    notes: tuple[str, ...]
    searched: SoupGain | None = None
    trainings: tuple[SoupTraining, ...] = ()
    recipe: dict[str, JsonValue]
    versions: dict[str, str]

    def row(self, name: str) -> SoupRow | None:
        """The candidate of that name."""
        return next((row for row in self.candidates if row.name == name), None)
