"""A finished soup as results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stockpot.checkpoints.layers import layer_of
from stockpot.evaluation.wording import in_sentence
from stockpot.evaluators.contract import Evaluator
from stockpot.provenance import RunModel, versions
from stockpot.soups.candidates import CandidateMaker, SoupCandidate
from stockpot.soups.choice import best_searched, is_level, judged_claims, leader
from stockpot.soups.ingredients import OpenIngredients
from stockpot.soups.judging import Judgement, mean_of
from stockpot.soups.measuring import finite
from stockpot.soups.schema import (
    KeptSoup,
    SoupCost,
    SoupEvaluator,
    SoupGain,
    SoupIngredient,
    SoupResults,
    SoupRow,
    SoupTraining,
)

_GROUPS = 12  # of layers, in the picture of the coefficients
RIVALS = ("best", "uniform")


@dataclass(frozen=True)
class SoupTrainings:
    """How ingredients were trained. ``title``: of the results; ``starts``: models that trainings
    started from, parents before children; ``doubts``: what else is worth a note."""

    title: str = ""
    trainings: tuple[SoupTraining, ...] = ()
    starts: tuple[RunModel, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """Which trainings cannot be used, and why; then the doubts."""
        lost = [one for one in self.trainings if one.left_out]
        return [*(f"{one.name} is left out: {one.left_out}" for one in lost), *self.doubts]


@dataclass
class SoupOutcome:
    """All that came out. ``seconds``: of this run."""

    maker: CandidateMaker
    ingredients: OpenIngredients
    evaluator: Evaluator
    kept: Judgement
    trained: SoupTrainings = field(default_factory=SoupTrainings)
    seconds: float = 0.0


def collect(outcome: SoupOutcome, recipe: dict[str, Any], digest: str) -> SoupResults:
    """The content of ``results.json``."""
    maker, evaluations = outcome.maker, outcome.maker.evaluations
    groups = maker.engine.groups(_GROUPS)
    names = [layer_of(maker.engine.changes[group[0]]) for group in groups]
    choose, judge = evaluations.choose, evaluations.judge
    budget = evaluations.budget
    return SoupResults(
        recipe_digest=digest,
        version=SoupResults.current,
        kind="soup",
        title=outcome.trained.title or f"Soup of {len(outcome.ingredients.names)} models",
        trainings=outcome.trained.trainings,
        base=outcome.ingredients.base_name,
        evaluator=SoupEvaluator(
            label=outcome.evaluator.label,
            digest=outcome.evaluator.identity,
            metric=outcome.evaluator.metric,
            rows=None if choose is None or judge is None else len(choose) + len(judge),
            choosing=None if choose is None else len(choose),
            judging=None if judge is None else len(judge),
            takes_rows=outcome.evaluator.takes_rows,
        ),
        ingredients=tuple(
            _ingredient(outcome, index, groups) for index in range(maker.engine.count)
        ),
        groups=tuple(names),
        candidates=tuple(_row(outcome, row, place) for place, row in enumerate(maker.rows)),
        kept=_kept(outcome),
        controls=outcome.kept.controls,
        trace=tuple(evaluations.trace),
        cost=SoupCost(
            evaluations=budget.spent,
            searched=maker.searched,
            seconds=budget.spent_seconds,
            beyond=max(outcome.seconds - evaluations.spent_here, 0.0),
            run=evaluations.measured,
        ),
        notes=(*_warnings(outcome), *maker.notes),
        searched=_searched(outcome),
        recipe=recipe,
        versions=versions("torch", "transformers", "cmaes", "optuna"),
    )


def _ingredient(outcome: SoupOutcome, index: int, groups: list[list[int]]) -> SoupIngredient:
    maker = outcome.maker
    scored = dict(enumerate(maker.singles)).get(index)
    without = maker.left_out.get(index)
    shares = outcome.kept.blend.coefficients[index]
    sizes = maker.engine.sizes
    return SoupIngredient(
        name=outcome.ingredients.names[index],
        digest=maker.engine.digests[index],
        score=None if scored is None else finite(scored.score),
        without=None if without is None else finite(without.score),
        shares=tuple(float(np.average(shares[group], weights=sizes[group])) for group in groups),
    )


def _row(outcome: SoupOutcome, row: SoupCandidate, place: int) -> SoupRow:
    behind = outcome.kept.behind[place]
    scored = row.scored
    return SoupRow(
        name=row.name,
        label=row.label,
        choose=finite(scored.score),
        complete=scored.complete,
        judge=mean_of(outcome.kept.judged.get(row.name)),
        behind=behind,
        level=is_level(row, leader(outcome.maker.rows), behind),
        decisions=row.decisions,
        members=len(scored.blend.members),
        coefficients=tuple(scored.blend.totals.tolist()),
        failure=scored.failure,
        watched=outcome.kept.watched.get(row.name, ()),
    )


def _kept(outcome: SoupOutcome) -> KeptSoup:
    rows, kept, judged = outcome.maker.rows, outcome.kept.row, outcome.kept.judged
    by_name = {row.name: row for row in rows}
    by_rows = {name: own for name, own in judged.items() if not isinstance(own, float)}
    there = [name for name in RIVALS if name in by_name]
    claims = judged_claims(
        by_rows,
        kept.name,
        there,
        {row.name: row.label for row in rows},
        outcome.evaluator.metric,
    )
    gains = [_gain(outcome, kept, by_name[name]) for name in there if name != kept.name]
    return KeptSoup(
        name=kept.name,
        label=kept.label,
        why=_why(outcome),
        choose=finite(kept.scored.score),
        judge=mean_of(judged.get(kept.name)),
        gains=tuple(gains),
        claims=claims,
        checks=outcome.kept.checks,
        method=kept.scored.blend.method,
        parameters=dict(kept.scored.blend.parameters),
    )


def _gain(outcome: SoupOutcome, row: SoupCandidate, other: SoupCandidate) -> SoupGain:
    own, rival = (mean_of(outcome.kept.judged.get(one.name)) for one in (row, other))
    sure = other.scored.complete and other.scored.failure is None
    return SoupGain(
        against=other.name,
        label=other.label,
        choose=row.scored.score - other.scored.score if sure else None,
        judge=None if own is None or rival is None else own - rival,
    )


def _searched(outcome: SoupOutcome) -> SoupGain | None:
    rows = outcome.maker.rows
    row = best_searched(rows)
    return None if row is None else _gain(outcome, row, rows[0])


def _why(outcome: SoupOutcome) -> str:
    rows, kept, behind = outcome.maker.rows, outcome.kept.row, outcome.kept.behind
    best = leader(rows)
    if any(gap is None for gap in behind) and not any(gap is not None for gap in behind):
        return f"best of {len(rows)} by one number each"
    level = [row for row, gap in zip(rows, behind, strict=True) if is_level(row, best, gap)]
    if kept not in level:
        return "the best of those that keep the constraints"
    if len(level) == 1:
        return f"best of {len(rows)} on the choosing rows"
    which = "the best" if kept is best else f"the best, {in_sentence(best.label)}"
    return (
        f"one of {len(level)} (of {len(rows)}) that the choosing rows cannot tell from {which}, "
        "and of those one that chose least"
    )


def _warnings(outcome: SoupOutcome) -> list[str]:
    if outcome.maker.evaluations.choose is not None:
        if any(isinstance(own, float) for own in outcome.kept.judged.values()):
            return ["the evaluator gives one number, no scores of rows: there are no intervals"]
        return []
    return [
        "the evaluator gives one number, no scores of rows: there are no intervals, and the number "
        "that chose is the one that is shown, which flatters what was chosen among many"
    ]
