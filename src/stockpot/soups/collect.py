"""A finished soup as results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stockpot.checkpoints.layers import layer_of
from stockpot.evaluation.wording import in_sentence
from stockpot.evaluators.contract import Evaluator
from stockpot.provenance import versions
from stockpot.soups.candidates import Kitchen, SoupCandidate
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
)

_GROUPS = 12  # of layers, in the picture of the coefficients
RIVALS = ("best", "uniform")


@dataclass
class Dish:
    """All that came out. ``seconds``: of this run."""

    kitchen: Kitchen
    ingredients: OpenIngredients
    evaluator: Evaluator
    kept: Judgement
    seconds: float = 0.0


def collect(dish: Dish, recipe: dict[str, Any], digest: str) -> SoupResults:
    """The content of ``results.json``."""
    kitchen, evaluations = dish.kitchen, dish.kitchen.evaluations
    groups = kitchen.engine.groups(_GROUPS)
    names = [layer_of(kitchen.engine.changes[group[0]]) for group in groups]
    choose, judge = evaluations.choose, evaluations.judge
    budget = evaluations.budget
    return SoupResults(
        recipe_digest=digest,
        version=SoupResults.current,
        kind="soup",
        title=f"Soup of {len(dish.ingredients.names)} models",
        base=dish.ingredients.base_name,
        evaluator=SoupEvaluator(
            label=dish.evaluator.label,
            digest=dish.evaluator.identity,
            metric=dish.evaluator.metric,
            rows=None if choose is None or judge is None else len(choose) + len(judge),
            choosing=None if choose is None else len(choose),
            judging=None if judge is None else len(judge),
            takes_rows=dish.evaluator.takes_rows,
        ),
        ingredients=tuple(
            _ingredient(dish, index, groups) for index in range(kitchen.engine.count)
        ),
        groups=tuple(names),
        candidates=tuple(_row(dish, row, place) for place, row in enumerate(kitchen.rows)),
        kept=_kept(dish),
        controls=dish.kept.controls,
        trace=tuple(evaluations.trace),
        cost=SoupCost(
            evaluations=budget.spent,
            searched=kitchen.searched,
            seconds=budget.spent_seconds,
            beyond=max(dish.seconds - evaluations.spent_here, 0.0),
            run=evaluations.measured,
        ),
        notes=(*_warnings(dish), *kitchen.notes),
        searched=_searched(dish),
        recipe=recipe,
        versions=versions("torch", "transformers", "cmaes", "optuna"),
    )


def _ingredient(dish: Dish, index: int, groups: list[list[int]]) -> SoupIngredient:
    kitchen = dish.kitchen
    scored = dict(enumerate(kitchen.singles)).get(index)
    without = kitchen.left_out.get(index)
    shares = dish.kept.blend.coefficients[index]
    sizes = kitchen.engine.sizes
    return SoupIngredient(
        name=dish.ingredients.names[index],
        digest=kitchen.engine.digests[index],
        score=None if scored is None else finite(scored.score),
        without=None if without is None else finite(without.score),
        shares=tuple(float(np.average(shares[group], weights=sizes[group])) for group in groups),
    )


def _row(dish: Dish, row: SoupCandidate, place: int) -> SoupRow:
    behind = dish.kept.behind[place]
    scored = row.scored
    return SoupRow(
        name=row.name,
        label=row.label,
        choose=finite(scored.score),
        complete=scored.complete,
        judge=mean_of(dish.kept.judged.get(row.name)),
        behind=behind,
        level=is_level(row, leader(dish.kitchen.rows), behind),
        decisions=row.decisions,
        members=len(scored.blend.members),
        coefficients=tuple(scored.blend.totals.tolist()),
        failure=scored.failure,
    )


def _kept(dish: Dish) -> KeptSoup:
    rows, kept, judged = dish.kitchen.rows, dish.kept.row, dish.kept.judged
    by_name = {row.name: row for row in rows}
    by_rows = {name: own for name, own in judged.items() if not isinstance(own, float)}
    claims = judged_claims(
        by_rows,
        kept.name,
        [name for name in RIVALS if name in by_name],
        {row.name: row.label for row in rows},
        dish.evaluator.metric,
    )
    gains = [
        _gain(dish, kept, by_name[name]) for name in RIVALS if name != kept.name and name in by_name
    ]
    return KeptSoup(
        name=kept.name,
        label=kept.label,
        why=_why(dish),
        choose=finite(kept.scored.score),
        judge=mean_of(judged.get(kept.name)),
        gains=tuple(gains),
        claims=claims,
        checks=dish.kept.checks,
    )


def _gain(dish: Dish, row: SoupCandidate, other: SoupCandidate) -> SoupGain:
    own, rival = (mean_of(dish.kept.judged.get(one.name)) for one in (row, other))
    sure = other.scored.complete and other.scored.failure is None
    return SoupGain(
        against=other.name,
        label=other.label,
        choose=row.scored.score - other.scored.score if sure else None,
        judge=None if own is None or rival is None else own - rival,
    )


def _searched(dish: Dish) -> SoupGain | None:
    rows = dish.kitchen.rows
    row = best_searched(rows)
    return None if row is None else _gain(dish, row, rows[0])


def _why(dish: Dish) -> str:
    rows, kept, behind = dish.kitchen.rows, dish.kept.row, dish.kept.behind
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


def _warnings(dish: Dish) -> list[str]:
    if dish.kitchen.evaluations.choose is not None:
        if any(isinstance(own, float) for own in dish.kept.judged.values()):
            return ["the evaluator gives one number, no scores of rows: there are no intervals"]
        return []
    return [
        "the evaluator gives one number, no scores of rows: there are no intervals, and the number "
        "that chose is the one that is shown, which flatters what was chosen among many"
    ]
