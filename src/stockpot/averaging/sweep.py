"""Window and shape by an evaluator: chosen on some rows, judged on others.

The rule is that of ``stockpot.soups``: the window and shape that were asked for are kept unless the
rows that choose can tell that another is better, however many were looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.averaging.plan import AveragePlan
from stockpot.averaging.shapes import coefficients
from stockpot.averaging.steps import Run, RunCheckpoint, find_checkpoints
from stockpot.checkpoints import open_checkpoint
from stockpot.errors import InputError, StockpotError
from stockpot.evaluation.claims import Claim
from stockpot.evaluators.contract import Evaluator
from stockpot.evaluators.store import ScoreStore
from stockpot.progress import progress
from stockpot.soups.blend import Blend, Blends
from stockpot.soups.budget import Budget
from stockpot.soups.candidates import SoupCandidate
from stockpot.soups.choice import judged_claims, preferred, shortfalls
from stockpot.soups.engine import SoupEngine
from stockpot.soups.judging import mean_of
from stockpot.soups.measuring import Evaluations, finite
from stockpot.soups.rows import RowSplit
from stockpot.soups.run import Evaluate, read_evaluator

TRIED = ("uniform", "wsm:cosine", "wsm:sqrt")  # wsm:linear is uniform
ASKED, LAST, BEST = "asked", "last", "sweep"


@dataclass(frozen=True)
class Sweep:
    """What was tried, and what is kept.

    ``tried``: last, shape, score on the rows that choose (None for a failure), and whether all of
    them were scored. ``choose``, ``judge``: scores of the kept one. ``claims``: the kept one
    against what was asked for and the last checkpoint, on the rows that judge.
    """

    plan: AveragePlan
    tried: tuple[tuple[int, str, float | None, bool], ...]
    choose: float
    judge: float | None
    claims: tuple[Claim, ...]

    def to_json(self) -> dict[str, Any]:
        """All but the plan as plain values."""
        keys = ("last", "shape", "choose", "complete")
        return {
            "tried": [dict(zip(keys, row, strict=True)) for row in self.tried],
            "choose": self.choose,
            "judge": self.judge,
            "claims": [claim.to_json() for claim in self.claims],
        }


def sweep_shapes(
    asked: AveragePlan,
    run: Run,
    evaluate: Evaluate,
    judge: int,
    seed: int,
    cache: str | Path | None,
    *,
    quiet: bool = True,
) -> Sweep:
    """Score windows and shapes of a run, and keep one.

    Windows are 1, 2, 4, ... checkpoints and all. Raises ``InputError`` for a run of equal
    checkpoints, ``StockpotError`` where the evaluator fails on every model.
    """
    every, _ = find_checkpoints(run)
    every.reverse()  # the newest first: whole numbers are its own
    evaluator = sweep_evaluator(evaluate)
    plans = {(len(asked.checkpoints), asked.shape): ASKED, (1, "uniform"): LAST}
    sizes = [*(2**i for i in range(1, len(every).bit_length()) if 2**i < len(every)), len(every)]
    pairs = list(dict.fromkeys([*plans, *((size, shape) for size in sizes for shape in TRIED)]))
    with ExitStack() as stack, progress("sweep", len(pairs), quiet=quiet) as advance:
        stack.enter_context(evaluator)
        evaluations = _open(stack, every, evaluator, RowSplit(judge, seed), cache)
        evaluations.advance = advance
        blends = Blends(
            [one.name for one in every], len(evaluations.engine.changes), has_base=False
        )
        tried = []
        for size, shape in pairs:
            blend = _blend(blends, size, shape)
            tried.append(evaluations.score(blend, "sweep", against=evaluations.best))
        rows = [
            SoupCandidate(name, scored.blend.label, scored, 0)
            for (size, shape), scored in zip(pairs, tried, strict=True)
            if (name := plans.get((size, shape))) is not None
        ]
        complete = [one for one in tried if one.complete and one.failure is None]
        if not complete:
            raise StockpotError(f"the evaluator failed on every model: {tried[0].failure}")
        best = max(complete, key=lambda one: one.score)
        rows.append(SoupCandidate(BEST, best.blend.label, best, len(tried), tuple(tried)))
        usable = [row.scored.complete and row.scored.failure is None for row in rows]
        kept = preferred(rows, shortfalls(rows), usable)
        assert kept is not None
        judged = {row.name: evaluations.judged(row.scored.blend) for row in rows}
        claims = judged_claims(
            {name: own for name, own in judged.items() if isinstance(own, np.ndarray)},
            kept.name,
            [ASKED, LAST],
            {row.name: row.label for row in rows},
            evaluator.metric,
        )
    size, shape = pairs[next(i for i, one in enumerate(tried) if one is kept.scored)]
    return Sweep(
        AveragePlan(shape, tuple(every[:size][::-1]), asked.notes),
        tuple(
            (*pair, finite(one.score), one.complete) for pair, one in zip(pairs, tried, strict=True)
        ),
        kept.scored.score,
        mean_of(judged[kept.name]),
        claims,
    )


def sweep_evaluator(evaluate: Evaluate) -> Evaluator:
    """The evaluator of a sweep. Raises ``InputError``, also for one with constraints."""
    evaluator, constraints = read_evaluator(evaluate)
    if constraints:
        raise InputError("a sweep takes no constraints", hint="stockpot soup does")
    return evaluator


def _open(
    stack: ExitStack,
    every: Sequence[RunCheckpoint],
    evaluator: Evaluator,
    split: RowSplit,
    cache: str | Path | None,
) -> Evaluations:
    models = [stack.enter_context(open_checkpoint(one.source)) for one in every]
    evaluator.prepare(next((one for one in models if one.home), models[0]))
    engine = SoupEngine(models, None)
    stack.callback(engine.close)
    if not engine.changes:
        raise InputError("these checkpoints are all the same", hint="give those of one run")
    store = ScoreStore(None if cache is None else Path(cache))
    return Evaluations(engine, evaluator, store, split, Budget(evaluations=float("inf")))


def _blend(blends: Blends, size: int, shape: str) -> Blend:
    weights = np.zeros(blends.count)
    weights[:size] = coefficients(shape, size)[::-1]
    label = f"{shape} over the last {size}" if size > 1 else "the last checkpoint"
    return blends.blend(f"{size} {shape}", label, weights)
