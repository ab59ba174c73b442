"""The end of a soup: what is kept, the constraints it keeps, and the controls beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stockpot.errors import EvaluationError, StockpotError
from stockpot.evaluation.selection import Shortfall
from stockpot.evaluators.contract import Scores
from stockpot.evaluators.spec import Constraint
from stockpot.evaluators.store import ScoreStore, StoredScore
from stockpot.soups.blend import Blend
from stockpot.soups.budget import Budget, BudgetSpentError
from stockpot.soups.candidates import Kitchen, SoupCandidate
from stockpot.soups.choice import lower_end, preferred, shortfalls
from stockpot.soups.measuring import TriedBlend
from stockpot.soups.schema import SoupCheck
from stockpot.soups.search import search


@dataclass(frozen=True)
class ControlScore:
    """A control: what it chose by (None: nothing), and its scores on the judging rows."""

    name: str
    label: str
    evaluations: int
    choose: float | None
    judge: Scores | float | None


@dataclass(frozen=True)
class Judgement:
    """The candidate that is kept, distances to the best, and scores of judging rows by name."""

    row: SoupCandidate
    behind: tuple[Shortfall | None, ...]
    judged: dict[str, Scores | float]
    checks: tuple[SoupCheck, ...]
    controls: tuple[ControlScore, ...]

    @property
    def blend(self) -> Blend:
        """What it is made of."""
        return self.row.scored.blend


def judge(
    kitchen: Kitchen,
    constraints: Sequence[Constraint],
    store: ScoreStore,
    controls: str,
    settings: Any,
) -> Judgement:
    """Choose by the choosing rows, then look at the judging rows for the first time.

    Raises ``StockpotError`` where no candidate keeps the constraints.
    """
    rows = kitchen.rows
    behind = tuple(shortfalls(rows))
    allowed = [row.scored.failure is None and row.scored.complete for row in rows]
    while True:
        kept = preferred(rows, behind, allowed)
        if kept is None:
            raise StockpotError(
                "no candidate keeps the constraints",
                hint="allow a larger loss, or name another model in against",
            )
        checks = tuple(_check(kitchen, one, store, kept) for one in constraints)
        if all(check.kept for check in checks):
            break
        lost = next(check for check in checks if not check.kept)
        kitchen.notes.append(f"{kept.label} breaks a constraint: {lost.label}")
        allowed[rows.index(kept)] = False
    evaluations = kitchen.evaluations
    beside = {"best", "uniform", "base", kept.name}
    free = not evaluations.evaluator.takes_rows
    judged = {
        row.name: scores
        for row in rows
        if (free or row.name in beside) and row.scored.failure is None
        for scores in [evaluations.judged(row.scored.blend)]
        if scores is not None
    }
    made = _controls(kitchen, kept, controls, settings) if controls != "none" else ()
    return Judgement(kept, behind, judged, checks, tuple(made))


def _check(
    kitchen: Kitchen, constraint: Constraint, store: ScoreStore, kept: SoupCandidate
) -> SoupCheck:
    """A constraint, asked on all rows of its evaluator."""
    rival = next((row for row in kitchen.rows if row.name == constraint.against), None)
    if rival is None:
        raise StockpotError(f"a constraint is against '{constraint.against}', which is not there")
    label = constraint.evaluator.label
    try:
        own, other = (
            _scored(kitchen, constraint, store, row.scored.blend) for row in (kept, rival)
        )
    except EvaluationError as error:
        kitchen.notes.append(f"constraint {label}: {error.message}")
        return _checked(constraint, None, None, False)
    if isinstance(own, float) or isinstance(other, float):
        mean = float(np.mean(own) - np.mean(other))
        return _checked(constraint, mean, None, mean >= -constraint.lose_at_most)
    mean, low = float((own - other).mean()), lower_end(own, other)
    return _checked(constraint, mean, low, low >= -constraint.lose_at_most - 1e-12)


def _checked(one: Constraint, mean: float | None, low: float | None, kept: bool) -> SoupCheck:
    return SoupCheck(
        label=one.evaluator.label,
        against=one.against,
        lose_at_most=one.lose_at_most,
        mean=mean,
        low=low,
        kept=kept,
    )


def _scored(
    kitchen: Kitchen, constraint: Constraint, store: ScoreStore, blend: Blend
) -> Scores | float:
    key, identity = kitchen.engine.identity(blend), constraint.evaluator.identity
    known = store.read(key, identity, None)
    if known is None:
        known = StoredScore(constraint.evaluator.evaluate(kitchen.engine.checkpoint(blend)), 0.0)
        store.write(key, identity, None, known)
    return known.scores


def _controls(
    kitchen: Kitchen, kept: SoupCandidate, controls: str, settings: Any
) -> list[ControlScore]:
    """What would have come out without what the ingredients had learnt, or without a search."""
    evaluations = kitchen.evaluations
    ours = evaluations.budget
    made: list[ControlScore] = []
    members = kept.scored.blend.members
    evaluations.budget = Budget(evaluations=2.0 + 2 * kitchen.searched)
    try:
        if len(members) > 1:
            strongest = int(kept.scored.blend.totals.argmax())
            other = kitchen.engine.shuffle(strongest, kitchen.seed)
            label = "the kept coefficients, all differences but one shuffled"
            scored = evaluations.score(kept.scored.blend, "control", engine=other)
            judged = evaluations.judged(kept.scored.blend, other)
            made.append(ControlScore("shuffled", label, 1, _finite(scored), judged))
            if controls == "equal" and kitchen.searched:
                made += _equal(kitchen, other, settings)
    except BudgetSpentError:
        pass
    finally:
        evaluations.budget = ours
    return made


def _equal(kitchen: Kitchen, other: Any, settings: Any) -> list[ControlScore]:
    """As many evaluations as the search had: for random shares, and for shuffled differences."""
    evaluations, made = kitchen.evaluations, []
    drawn = kitchen.draws(kitchen.searched)
    if drawn is not None:
        made.append(
            ControlScore(
                "draws",
                f"best of {kitchen.searched} random shares",
                kitchen.searched,
                drawn.score,
                evaluations.judged(drawn.blend),
            )
        )
    seen: list[TriedBlend] = []

    def objective(vector: Any) -> float:
        blend = kitchen.pantry.blend(f"random:{len(seen)}", f"shuffled {len(seen) + 1}", vector)
        seen.append(evaluations.score(blend, "control", engine=other))
        return seen[-1].score

    start = np.full(kitchen.pantry.count, 1.0 / kitchen.pantry.count)
    steps = search(
        objective, start, (), method=settings.search, seed=settings.seed, gain=settings.gain
    )
    for _ in zip(range(kitchen.searched), steps, strict=False):
        pass
    usable = [one for one in seen if one.failure is None]
    if usable:
        best = max(usable, key=lambda one: one.score)
        label = "search over shuffled differences"
        judged = evaluations.judged(best.blend, other)
        made.append(ControlScore("random", label, len(seen), best.score, judged))
    return made


def _finite(scored: TriedBlend) -> float | None:
    return scored.score if scored.failure is None else None
