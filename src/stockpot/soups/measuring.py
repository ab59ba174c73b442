"""Evaluations of blends: none twice, within a budget, no more rows than it takes to tell.

*Racing*: where an evaluator takes some of the rows, a blend is scored on more of them only while a
paired test says that it can still win against the one that leads. Its score is then the leader's
plus the difference on the rows that both were scored on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from stockpot.errors import EvaluationError, StockpotError
from stockpot.evaluation.student import quantile
from stockpot.evaluators.contract import Evaluator, Rows, Scores
from stockpot.evaluators.store import ScoreStore, StoredScore
from stockpot.files import digest
from stockpot.soups.blend import Blend
from stockpot.soups.budget import Budget, BudgetSpentError
from stockpot.soups.engine import SoupEngine
from stockpot.soups.limits import SoupLimits
from stockpot.soups.rows import RowSplit
from stockpot.soups.schema import SoupStep

_STAGES = (0.125, 0.25, 0.5, 1.0)
_HOPELESS = 0.01
"""How likely a blend that wins is given up, at one look."""
BACKWARD = 3.0
_FIRST = 3
"""After so many failures and no success the evaluator is what fails."""


@dataclass(frozen=True)
class TriedBlend:
    """What is known of a blend by the rows that choose.

    ``scores``: of the rows seen, in the order of the choosing rows; None for one number or a
    failure. ``score``: their mean, or an estimate of it where it was given up (``complete`` is
    False), minus infinity for a ``failure``.
    """

    blend: Blend
    score: float
    scores: Scores | None = None
    complete: bool = True
    failure: str | None = None


@dataclass
class Evaluations:
    """Scores blends of an engine by an evaluator. ``say``: told of every failure."""

    engine: SoupEngine
    evaluator: Evaluator
    store: ScoreStore
    split: RowSplit
    budget: Budget
    say: Callable[[str], None] = lambda words: None
    advance: Callable[..., None] = lambda amount=1, description=None: None
    racing: bool = True
    trace: list[SoupStep] = field(default_factory=list)
    measured: int = 0
    spent_here: float = 0.0
    choose: Rows | None = None
    judge: Rows | None = None
    limits: SoupLimits | None = None
    unjudged: list[str] = field(default_factory=list)
    _known: dict[str, TriedBlend] = field(default_factory=dict)
    _controls: dict[str, TriedBlend] = field(default_factory=dict)
    _all: dict[str, Scores] = field(default_factory=dict)
    _failed: list[str] = field(default_factory=list)
    _booked: set[tuple[str, bytes]] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.evaluator.size is not None:
            self.choose, self.judge = self.split.parts(self.evaluator.size)

    @property
    def best(self) -> TriedBlend | None:
        """The best of those that were scored on all choosing rows and keep the constraints."""
        return self.best_of(self._known.values())

    def best_of(self, tried: Iterable[TriedBlend]) -> TriedBlend | None:
        """The best of some that keeps the constraints, the one of most models where scores are
        equal; the best of all where none does."""
        usable = [one for one in tried if one.complete and one.failure is None]
        usable.sort(key=lambda one: (-one.score, -len(one.blend.members)))
        first = usable[0] if usable else None
        return next((one for one in usable if self.excess(one) == 0.0), first)

    def excess(self, one: TriedBlend) -> float:
        """How much more a blend loses by the constraints than it may, 0 where it keeps them."""
        return 0.0 if self.limits is None else self.limits.excess(one.blend)

    @property
    def complete(self) -> list[TriedBlend]:
        """All that were scored on all choosing rows, in order."""
        return [one for one in self._known.values() if one.complete and one.failure is None]

    def score(
        self,
        blend: Blend,
        stage: str,
        engine: SoupEngine | None = None,
        *,
        against: TriedBlend | None = None,
    ) -> TriedBlend:
        """Score a blend on the choosing rows; with ``against`` only as long as it can win that.

        Raises ``BudgetSpentError``; ``StockpotError`` where the evaluator fails on every model.
        """
        engine = engine or self.engine
        key = engine.identity(blend)
        book = self._known if engine is self.engine else self._controls
        known = book.get(key)
        if known is not None and (known.complete or _loses(known, against)):
            return known
        self.budget.check()
        before, started = self.budget.spent_seconds, time.perf_counter()
        try:
            scored, rows = self._measured(engine, key, blend, against)
        except EvaluationError as error:
            scored, rows = TriedBlend(blend, -np.inf, failure=error.message), None
            self.budget.add(1.0, time.perf_counter() - started)
            self._fail(blend, error)
        book[key] = scored
        leader = self.best
        self.trace.append(
            SoupStep(
                label=blend.label,
                stage=stage,
                score=finite(scored.score),
                complete=scored.complete,
                best=None if leader is None else leader.score,
                rows=rows,
                seconds=self.budget.spent_seconds - before,
                spent=self.budget.spent,
            )
        )
        self.advance(1, blend.label)
        return scored

    def slope(self, blend: Blend, groups: Sequence[Sequence[int]], rows: Rows | None) -> Scores:
        """How the score of ``rows`` changes with the coefficients of each group of tensors, (G K,).

        It counts as three evaluations of them: forward, and twice that for backward. Raises
        ``BudgetSpentError``.
        """
        whole = 1 if self.choose is None or rows is None else len(self.choose)
        share = BACKWARD * (1.0 if rows is None else len(rows) / whole)
        self.budget.check()
        key = self.engine.identity(blend)
        asked = digest([self.evaluator.identity, "slope", groups])
        known = self.store.read(key, asked, rows)
        if known is None:
            started = time.perf_counter()
            self.measured += 1
            gradients = self.evaluator.gradient(self.engine.checkpoint(blend), rows)
            slopes = self.engine.slope(blend, gradients)
            values = np.concatenate([slopes[:, list(group)].sum(axis=1) for group in groups])
            seconds = time.perf_counter() - started
            self.spent_here += seconds
            self.budget.add(share, seconds)
            self.store.write(key, asked, rows, StoredScore(values, seconds))
            return values
        self.budget.add(share, known.seconds, known=True)
        assert not isinstance(known.scores, float)
        return known.scores

    def judged(self, blend: Blend, engine: SoupEngine | None = None) -> Scores | float | None:
        """Scores of the judging rows (or one number for them); None where that failed or there are
        none. Costs nothing of the budget."""
        engine = engine or self.engine
        if self.judge is None:
            return None
        key = engine.identity(blend)
        if key in self._all:
            return self._all[key][self.judge]
        if not self.evaluator.takes_rows:
            return None
        try:
            return self._run(engine, key, blend, self.judge, 0.0).scores
        except BudgetSpentError:
            self.unjudged.append(blend.label)
            return None
        except EvaluationError as error:
            self.say(f"{blend.label}: {error.message}")
            return None

    def _measured(
        self, engine: SoupEngine, key: str, blend: Blend, against: TriedBlend | None
    ) -> tuple[TriedBlend, int | None]:
        if not self.evaluator.takes_rows or self.choose is None:
            stored = self._run(engine, key, blend, None, 1.0)
            if isinstance(stored.scores, float):
                return TriedBlend(blend, stored.scores), None
            self._learn_size(len(stored.scores))
            self._all[key] = stored.scores
            assert self.choose is not None
            scores = stored.scores[self.choose]
            return TriedBlend(blend, float(scores.mean()), scores), len(stored.scores)
        return self._raced(engine, key, blend, against)

    def _raced(
        self, engine: SoupEngine, key: str, blend: Blend, against: TriedBlend | None
    ) -> tuple[TriedBlend, int | None]:
        assert self.choose is not None
        races = self.racing and self.evaluator.is_mean
        rival = against.scores if races and against is not None and against.complete else None
        total, start = len(self.choose), 0
        seen: list[Scores] = []
        for share in _STAGES if rival is not None else (1.0,):
            stop = max(round(share * total), min(total, 8))
            if stop <= start:
                continue
            part = self.choose[start:stop]
            stored = self._run(engine, key, blend, part, (stop - start) / total)
            start = stop
            if isinstance(stored.scores, float):
                return TriedBlend(blend, stored.scores), total
            seen.append(stored.scores)
            scores = np.concatenate(seen)
            if rival is not None and stop < total:
                assert against is not None
                gap = scores - rival[:stop]
                if gap.mean() + _margin(gap) < 0:
                    estimate = against.score + float(gap.mean())
                    return TriedBlend(blend, estimate, scores, complete=False), stop
        return TriedBlend(blend, float(scores.mean()), scores), total

    def _run(
        self, engine: SoupEngine, key: str, blend: Blend, rows: Rows | None, share: float
    ) -> StoredScore:
        """One evaluation, looked up or made, and booked once. Raises ``EvaluationError``."""
        identity = self.evaluator.identity
        stored = self.store.read(key, identity, rows)
        known = stored is not None
        if stored is None:
            if self.budget.is_over():
                raise BudgetSpentError
            stored = self._evaluate(engine, blend, rows)
            self.store.write(key, identity, rows, stored)
        mark = (key, b"" if rows is None else rows.tobytes())
        if mark not in self._booked:
            self._booked.add(mark)
            self.budget.add(share, stored.seconds if share else 0.0, known=known)
        return stored

    def _evaluate(self, engine: SoupEngine, blend: Blend, rows: Rows | None) -> StoredScore:
        started = time.perf_counter()
        self.measured += 1  # also where it fails
        scores = self.evaluator.evaluate(engine.checkpoint(blend), rows)
        seconds = time.perf_counter() - started
        self.spent_here += seconds
        return StoredScore(scores, seconds)

    def _learn_size(self, count: int) -> None:
        if self.choose is None:
            self.choose, self.judge = self.split.parts(count)
        elif count != len(self.choose) + len(self.judge if self.judge is not None else ()):
            before = len(self.choose) + len(self.judge if self.judge is not None else ())
            raise EvaluationError(f"expected {before} scores as before, got {count}")

    def _fail(self, blend: Blend, error: EvaluationError) -> None:
        self._failed.append(error.message)
        self.say(f"{blend.label}: {error.message}")
        if len(self._failed) >= _FIRST and len(self._failed) == len(self._known) + 1:
            raise StockpotError(
                f"the evaluator failed on the first {len(self._failed)} models: {error.message}",
                hint=error.hint or "run it by hand on one of the checkpoints",
            )


def finite(value: float) -> float | None:
    """None for a number that JSON does not have: the score of what failed."""
    return float(value) if np.isfinite(value) else None


def _loses(known: TriedBlend, against: TriedBlend | None) -> bool:
    """Whether what was given up once need not be looked at again."""
    return against is not None and known.score < against.score


def _margin(gap: Scores) -> float:
    """How far a mean difference may be above what was seen; 0 is beyond it for a lost race."""
    count = len(gap)
    spread = float(gap.std(ddof=1)) if count > 1 else np.inf
    return quantile(_HOPELESS, count - 1) * spread / float(np.sqrt(count))
