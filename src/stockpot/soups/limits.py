"""Constraints: what a blend may lose by other evaluators.

While blends are searched a constraint is asked on the choosing rows of its evaluator, and only of a
blend that would lead; the one that is kept has to keep it on the judging rows, too. Evaluators of
fewer rows than can be split, and those of one number, are asked as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stockpot.errors import EvaluationError
from stockpot.evaluators.contract import Scores
from stockpot.evaluators.spec import Constraint
from stockpot.evaluators.store import ScoreStore, StoredScore
from stockpot.soups.blend import Blend
from stockpot.soups.engine import SoupEngine
from stockpot.soups.paired import lower_end
from stockpot.soups.rows import FEWEST, RowSplit
from stockpot.soups.schema import SoupCheck


@dataclass
class SoupLimits:
    """``rivals``: the models that nothing may be lost against, by name, as far as they are known;
    ``notes``: of evaluators that failed."""

    constraints: Sequence[Constraint]
    engine: SoupEngine
    store: ScoreStore
    split: RowSplit
    rivals: dict[str, Blend] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _known: dict[str, float] = field(default_factory=dict)

    def excess(self, blend: Blend) -> float:
        """How much more is lost than may be, on the choosing rows, by the worst constraint; 0 where
        all are kept."""
        limits = [one for one in self.constraints if one.against in self.rivals]
        if not limits:
            return 0.0
        key = self.engine.identity(blend)
        if key not in self._known:
            self._known[key] = max(self._excess(one, blend) for one in limits)
        return self._known[key]

    def _excess(self, one: Constraint, blend: Blend) -> float:
        check = self._check(one, blend, judging=False)
        seen = check.mean if check.low is None else check.low
        if check.kept:
            return 0.0
        return np.inf if seen is None else max(-check.lose_at_most - seen, 1e-300)

    def checks(self, blend: Blend) -> tuple[SoupCheck, ...]:
        """Every constraint, on the rows that judge."""
        return tuple(self._check(one, blend, judging=True) for one in self.constraints)

    def _check(self, one: Constraint, blend: Blend, *, judging: bool) -> SoupCheck:
        mean, low, kept = None, None, False
        assert one.lose_at_most is not None
        try:
            own, other = (self.scored(one, each) for each in (blend, self.rivals[one.against]))
        except EvaluationError as error:
            self.notes.append(f"constraint {one.evaluator.label}: {error.message}")
        else:
            if isinstance(own, float) or isinstance(other, float):
                mean = float(np.mean(own) - np.mean(other))
            else:
                if len(own) >= FEWEST:
                    rows = self.split.parts(len(own))[judging]
                    own, other = own[rows], other[rows]
                mean, low = float((own - other).mean()), lower_end(own, other)
            kept = (mean if low is None else low) >= -one.lose_at_most - 1e-12
        return SoupCheck(
            label=one.evaluator.label,
            against=one.against,
            lose_at_most=one.lose_at_most,
            mean=mean,
            low=low,
            kept=kept,
        )

    def scored(self, one: Constraint, blend: Blend) -> Scores | float:
        """All scores of a blend by an evaluator; none is measured twice."""
        key, identity = self.engine.identity(blend), one.evaluator.identity
        known = self.store.read(key, identity, None)
        if known is None:
            known = StoredScore(one.evaluator.evaluate(self.engine.checkpoint(blend)), 0.0)
            self.store.write(key, identity, None, known)
        return known.scores
