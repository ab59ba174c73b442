"""The end of a soup: what is kept, the constraints it keeps, and the controls beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from stockpot.errors import EvaluationError, StockpotError
from stockpot.evaluation.selection import Shortfall
from stockpot.evaluators.contract import Scores
from stockpot.evaluators.spec import Constraint
from stockpot.soups.blend import Blend
from stockpot.soups.budget import BudgetSpentError
from stockpot.soups.candidates import CandidateMaker, SoupCandidate
from stockpot.soups.choice import (
    best_searched,
    preferred,
    shortfalls,
)
from stockpot.soups.engine import SoupEngine
from stockpot.soups.measuring import TriedBlend
from stockpot.soups.paired import difference, plain_margin
from stockpot.soups.schema import SoupCheck, SoupControl, SoupWatched
from stockpot.soups.search import search


@dataclass(frozen=True)
class Judgement:
    """The candidate that is kept, distances to the best, and scores of judging rows by name.

    ``watched``: by name of the candidate, what decides nothing.
    """

    row: SoupCandidate
    behind: tuple[Shortfall | None, ...]
    judged: dict[str, Scores | float]
    checks: tuple[SoupCheck, ...]
    controls: tuple[SoupControl, ...]
    watched: dict[str, tuple[SoupWatched, ...]] = field(default_factory=dict)

    @property
    def blend(self) -> Blend:
        """What it is made of."""
        return self.row.scored.blend


def judge(maker: CandidateMaker, watched: Sequence[Constraint], settings: Any) -> Judgement:
    """Choose by the choosing rows, then look at the judging rows for the first time.

    Raises ``StockpotError`` where no candidate keeps the constraints.
    """
    rows, limits = maker.rows, maker.evaluations.limits
    behind = tuple(shortfalls(rows))
    allowed = [row.scored.failure is None and row.scored.complete for row in rows]
    while True:
        kept = preferred(rows, behind, allowed)
        if kept is None:
            raise StockpotError(
                "no candidate keeps the constraints",
                hint="allow a larger loss, or name another model in against",
            )
        checks = () if limits is None else limits.checks(kept.scored.blend)
        if all(check.kept for check in checks):
            break
        lost = next(check for check in checks if not check.kept)
        maker.notes.append(f"{kept.label} breaks a constraint: {lost.label}")
        allowed[rows.index(kept)] = False
    evaluations = maker.evaluations
    beside = {"best", "uniform", "base", kept.name}
    if (searched := best_searched(rows)) is not None:
        beside.add(searched.name)
    free = maker.judges_all or not evaluations.evaluator.takes_rows
    judged = {
        row.name: scores
        for row in rows
        if (free or row.name in beside) and row.scored.failure is None
        for scores in [evaluations.judged(row.scored.blend)]
        if scores is not None
    }
    if limits is not None:
        maker.notes += dict.fromkeys(limits.notes)
    controls = _controls(maker, kept, settings)
    if evaluations.unjudged:
        names = ", ".join(dict.fromkeys(evaluations.unjudged))
        maker.notes.append(f"the budget ended before these were judged: {names}")
    shown = {
        row.name: tuple(_watched(maker, one, row) for one in watched)
        for row in rows
        if row.scored.failure is None
    }
    return Judgement(kept, behind, judged, checks, controls, shown)


def _watched(maker: CandidateMaker, one: Constraint, row: SoupCandidate) -> SoupWatched:
    """A candidate by an evaluator that decides nothing."""
    rival = next((other for other in maker.rows if other.name == one.against), None)
    own, change, limits = None, None, maker.evaluations.limits
    assert limits is not None
    try:
        own = limits.scored(one, row.scored.blend)
        other = None if rival is None else limits.scored(one, rival.scored.blend)
        if isinstance(own, np.ndarray) and isinstance(other, np.ndarray):
            gap = difference(own, other)
            change = Shortfall(gap.mean, plain_margin(gap))
    except EvaluationError as error:
        maker.notes.append(f"{one.evaluator.label}, {row.label}: {error.message}")
    return SoupWatched(
        label=one.evaluator.label,
        metric=one.evaluator.metric,
        against=one.against,
        score=mean_of(own),
        change=change,
    )


def mean_of(scores: Scores | float | None) -> float | None:
    """The mean score of some rows."""
    return None if scores is None else float(np.mean(scores))


def _controls(maker: CandidateMaker, kept: SoupCandidate, settings: Any) -> tuple[SoupControl, ...]:
    """What would have come out without what the ingredients had learnt, or without a search.

    Their evaluations are not of the budget.
    """
    blend, evaluations = kept.scored.blend, maker.evaluations
    if settings.controls == "none" or len(blend.members) < 2:
        return ()
    other = maker.engine.shuffle(int(blend.totals.argmax()), maker.seed)

    def control(name: str, label: str, tried: Sequence[TriedBlend], own: SoupEngine) -> None:
        usable = [one for one in tried if one.complete and one.failure is None]
        best = max(usable, key=lambda one: one.score, default=None)
        if best is not None:
            judged = mean_of(evaluations.judged(best.blend, own))
            made.append(
                SoupControl(
                    name=name, label=label, evaluations=len(tried), choose=best.score, judge=judged
                )
            )

    def shuffled(vector: Any) -> float:
        tried.append(evaluations.score(maker.blends.blend("", "", vector), "control", other))
        return tried[-1].score

    made: list[SoupControl] = []
    tried: list[TriedBlend] = []
    count, ours = maker.searched, evaluations.budget
    evaluations.budget = replace(ours, evaluations=1.0 + 2 * count, spent=0.0, reserve=0.0)
    try:
        label = "the kept coefficients, all differences but one shuffled"
        control("shuffled", label, [evaluations.score(blend, "control", other)], other)
        if settings.controls == "equal" and count:
            drawn = maker.draws(count)
            control("draws", f"best of {count} random shares", drawn, maker.engine)
            start = np.full(maker.blends.count, 1.0 / maker.blends.count)
            steps = search(shuffled, start, (), settings.search, settings.seed, settings.gain)
            for _ in zip(range(count), steps, strict=False):
                pass
            control("random", "search over shuffled differences", tried, other)
    except BudgetSpentError:
        maker.notes.append("the budget ended before the controls were complete")
    finally:
        evaluations.budget = ours
    return tuple(made)
