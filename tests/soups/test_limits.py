"""Constraints are kept by what is searched, in bowls whose best allowed point is known."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import InputError
from stockpot.evaluators import FunctionEvaluator
from stockpot.evaluators.spec import Constraint
from stockpot.evaluators.store import ScoreStore
from stockpot.soups import soup
from stockpot.soups.blend import Blends
from stockpot.soups.budget import Budget
from stockpot.soups.candidates import CandidateMaker
from stockpot.soups.engine import SoupEngine
from stockpot.soups.limits import SoupLimits
from stockpot.soups.measuring import Evaluations
from stockpot.soups.rows import RowSplit
from tests.soups.bowls import bowl, mixed, states

WANTED = np.array([0.9, 0.7, 0.8])


def gap(state, other):
    return sum(((state[n] - other[n]) ** 2).sum() for n in other)


def limited(allowed, budget, *, rows=0, search="cmaes"):
    """A bowl away from the base, and a constraint that lets it go so far from the base."""
    base, *models = states(3)
    target = mixed(base, models, WANTED)
    noise = np.zeros(rows) if rows else 0.0
    asked = []

    def safe(state):
        asked.append(1)
        return noise - gap(state, base)

    engine = SoupEngine([open_checkpoint(one) for one in models], open_checkpoint(base))
    store = ScoreStore()
    constraint = Constraint(FunctionEvaluator(safe), allowed, "base")
    evaluations = Evaluations(
        engine,
        FunctionEvaluator(bowl(target)),
        store,
        RowSplit(),
        Budget(evaluations=budget),
        limits=SoupLimits([constraint], engine, store, RowSplit()),
    )
    names = ["a", "b", "c"]
    cook = CandidateMaker(engine, Blends(names, len(engine.changes), has_base=True), evaluations)
    cook.cheap()
    cook.search(search, 1, 0.0)
    return cook, base, models, target, asked


@pytest.mark.parametrize("rows", [0, 40])
def test_the_search_finds_the_best_that_is_allowed(rows):
    base, *models = states(3)
    whole = gap(mixed(base, models, WANTED), base)
    allowed = 0.3 * whole
    cook, base, models, target, asked = limited(allowed, 300, rows=rows)
    # The nearest point of a ball around the base: on the line to the bottom of the bowl.
    best = WANTED * np.sqrt(allowed / whole)
    found = next(one for one in cook.rows if one.name == "search").scored
    assert gap(mixed(base, models, found.blend.totals), base) <= allowed * (1 + 1e-9)
    np.testing.assert_allclose(found.blend.totals, best, atol=5e-2)
    oracle = -gap(mixed(base, models, best), target)
    assert found.score <= oracle + 1e-12
    assert found.score == pytest.approx(oracle, rel=0.15)
    # A constraint is asked of what would lead, not of everything.
    assert len(asked) < 0.5 * len(cook.evaluations.trace)


def test_every_candidate_that_can_keeps_the_constraints():
    base, *models = states(3)
    allowed = 0.3 * gap(mixed(base, models, WANTED), base)
    cook, base, models, _, _ = limited(allowed, 200)

    def keeps(row):
        return gap(mixed(base, models, row.scored.blend.coefficients[:, 0]), base) <= allowed

    chosen = {row.name: keeps(row) for row in cook.rows}
    assert not chosen["best"]
    for name in ("wise:uniform", "wise:best", "search", "search:layers"):
        assert chosen.get(name, True), name


def test_a_single_model_that_keeps_them_is_a_candidate():
    base, *models = states(3)
    near = mixed(base, models, [0.3, 0.0, 0.0])
    target = mixed(base, models, [1.0, 0.2, 0.0])
    constraint = Constraint(
        FunctionEvaluator(lambda s: -gap(s, base)), 0.2 * gap(models[0], base), "base"
    )
    done = soup(
        {"far": models[0], "near": near, "other": models[2]},
        (FunctionEvaluator(bowl(target)), (constraint,)),
        base=base,
        search="none",
    ).results
    assert done.row("best").label.endswith("far")
    assert done.row("best:kept").label == "best single model that keeps the constraints, near"
    assert all(check.kept for check in done.kept.checks)
    assert done.kept.name != "best"


def test_a_constraint_against_a_base_needs_one():
    base, *models = states(3)
    constraint = Constraint(FunctionEvaluator(lambda s: -gap(s, base)), 0.1, "base")
    called = []

    def score(state):
        called.append(1)
        return 1.0

    with pytest.raises(InputError, match="against 'base', and there is none"):
        soup(models, (FunctionEvaluator(score), (constraint,)))
    assert called == []


def test_what_was_chosen_on_some_rows_is_checked_on_others():
    """A constraint that the choosing rows flatter: the rows that judge have the word."""
    base, *models = states(3)
    split = RowSplit()
    choose, judge = split.parts(60)
    bonus = np.zeros(60)
    bonus[choose], bonus[judge] = 1.0, -1.0

    def safe(state):
        moved = float(gap(state, base) > 1e-12)
        return moved * bonus

    engine = SoupEngine([open_checkpoint(one) for one in models], open_checkpoint(base))
    limits = SoupLimits(
        [Constraint(FunctionEvaluator(safe), 0.5, "base")], engine, ScoreStore(), split
    )
    blends = Blends(["a", "b", "c"], len(engine.changes), has_base=True)
    limits.rivals["base"] = blends.blend("base", "", np.zeros(3))
    assert limits.excess(blends.uniform()) == 0.0
    (check,) = limits.checks(blends.uniform())
    assert not check.kept
    assert check.mean == pytest.approx(-1.0)
