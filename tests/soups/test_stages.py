"""Coefficients by gradient and numbers of merge methods, in bowls whose best is known."""

from __future__ import annotations

import numpy as np
import pytest

import stockpot
from stockpot.checkpoints import open_checkpoint
from stockpot.errors import InputError
from stockpot.evaluators import FunctionEvaluator
from stockpot.evaluators.store import ScoreStore
from stockpot.soups import soup
from stockpot.soups.blend import Blends
from stockpot.soups.budget import Budget
from stockpot.soups.candidates import CandidateMaker
from stockpot.soups.engine import SoupEngine
from stockpot.soups.measuring import Evaluations
from stockpot.soups.rows import RowSplit
from stockpot.soups.stages import method_stage
from tests.soups.bowls import bowl, maker, mixed, states

SIZE = 200


def row(cook, name):
    return next(one for one in cook.rows if one.name == name)


def differentiable(target, noise=None):
    """The bowl and its gradient, row by row."""
    noise = np.zeros(SIZE) if noise is None else noise

    def score(state, rows):
        return bowl(target, noise)(state)[rows]

    def gradient(state, rows):
        return {name: -2 * (state[name] - target[name]) for name in target}

    return FunctionEvaluator(score, size=SIZE, gradient=gradient)


def cook_of(models, evaluator, base, budget, store=None):
    engine = SoupEngine(
        [open_checkpoint(one) for one in models], None if base is None else open_checkpoint(base)
    )
    evaluations = Evaluations(
        engine, evaluator, store or ScoreStore(), RowSplit(), Budget(evaluations=budget)
    )
    names = [f"m{i}" for i in range(len(models))]
    return CandidateMaker(
        engine, Blends(names, len(engine.changes), has_base=base is not None), evaluations
    )


@pytest.mark.parametrize("count", [3, 8])
@pytest.mark.parametrize("has_base", [True, False])
def test_learnt_coefficients_are_those_of_the_bowl(count, has_base):
    base, *models = states(count)
    best = np.linspace(0.6, 0.1, count)
    if not has_base:
        best = best / best.sum()
    target = mixed(base, models, best)
    cook = cook_of(models, differentiable(target), base if has_base else None, 60 + 3 * count)
    cook.cheap()
    cook.search("none", 1, 0.0)
    got = row(cook, "learnt").scored.blend.totals
    np.testing.assert_allclose(got, best, atol=1e-3)
    assert cook.evaluations.budget.spent <= 60 + 3 * count + 1e-9
    searched = maker(models, bowl(target), base=base if has_base else None, budget=60 + 3 * count)
    searched.cheap()
    searched.search("cmaes", 1, 0.0)
    assert row(cook, "learnt").scored.score > row(searched, "search").scored.score


def test_the_slope_is_that_of_finite_differences():
    for has_base in (True, False):
        base, *models = states(4)
        del base["head.weight"]  # a new head: averaged with shares that add up to 1
        target = mixed(
            {**base, "head.weight": models[0]["head.weight"]}, models, [0.4, 0.1, 0.3, 0.2]
        )
        cook = cook_of(models, differentiable(target), base if has_base else None, 1000)
        groups = cook.engine.groups(3)
        at = np.linspace(0.5, 0.2, 4 * len(groups))

        def blend(vector, cook=cook, groups=groups):
            values = np.zeros((4, cook.blends.tensors))
            for own, group in zip(vector.reshape(len(groups), 4), groups, strict=True):
                values[:, group] = own[:, None]
            return cook.blends.blend("x", "x", values)

        rows = np.arange(20)
        got = cook.evaluations.slope(blend(at), groups, rows)
        for place in range(len(at)):
            ends = [
                cook.evaluations.evaluator.evaluate(
                    cook.engine.checkpoint(blend(at + step * np.eye(len(at))[place])), rows
                ).mean()
                for step in (-1e-4, 1e-4)
            ]
            assert got[place] == pytest.approx((ends[1] - ends[0]) / 2e-4, rel=1e-3, abs=1e-6)


def test_no_gradient_is_measured_twice():
    base, *models = states(3)
    target, store = mixed(base, models, [0.5, 0.2, 0.3]), ScoreStore()
    cooks = [cook_of(models, differentiable(target), base, 40, store) for _ in range(2)]
    for cook in cooks:
        cook.cheap()
        cook.search("none", 1, 0.0)
    assert cooks[0].evaluations.measured > 20
    assert cooks[1].evaluations.measured == 0
    learnt = [row(cook, "learnt").scored for cook in cooks]
    np.testing.assert_array_equal(learnt[0].blend.coefficients, learnt[1].blend.coefficients)


def test_a_gradient_takes_what_the_function_takes():
    with pytest.raises(InputError, match="take the same arguments"):
        FunctionEvaluator(lambda state, rows: rows, gradient=lambda state: {})


@pytest.mark.parametrize(
    ("method", "known"),
    [
        ("task_arithmetic", {"scale": 0.37}),
        ("ties", {"density": 0.45, "scale": 0.8}),
        ("slerp", {"t": 0.7}),
    ],
)
def test_numbers_of_a_method_are_those_of_the_bowl(method, known):
    """As good as a grid of as many points and better; the model is that of the plain merge."""
    base, *models = states(2 if method == "slerp" else 3)
    with_base = {} if method == "slerp" else {"base": base}
    target = stockpot.merge(models, method=method, **with_base, **known).state
    score = bowl(target)
    cook = maker(models, score, base=base, budget=120)
    cook.cheap()
    before = cook.evaluations.budget.spent
    cook.search("cmaes", 1, 0.0, [method_stage(method, cook.blends)])
    spent = cook.evaluations.budget.spent - before
    chosen = row(cook, f"search:{method}").scored
    values = dict(chosen.blend.parameters)
    assert set(values) == set(known)
    plain = stockpot.merge(models, method=method, **with_base, **values).state
    assert chosen.score == pytest.approx(score(plain), rel=1e-5, abs=1e-12)
    side = max(2, int((spent / 2) ** (1 / len(known))))
    ends = {"scale": (0.0, 2.0), "density": (1 / side, 1.0), "t": (0.0, 1.0)}
    axes = np.meshgrid(*[np.linspace(*ends[name], side) for name in known])
    grid = [
        dict(zip(known, point, strict=True)) for point in np.stack(axes, -1).reshape(-1, len(known))
    ]
    best = max(
        score(stockpot.merge(models, method=method, **with_base, **point).state) for point in grid
    )
    assert chosen.score >= best
    if len(known) == 1:
        assert list(values.values()) == pytest.approx(list(known.values()), abs=1e-3)


def test_methods_that_cannot_be_searched_are_refused():
    base, *models = states(3)
    for methods, options, message in (
        (["tise"], {}, "methods: .*tise"),
        (["slerp"], {}, "methods: .*slerp"),
        (["linear"], {}, "'linear' has no numbers to search"),
        (["ties"], {"base": None}, "'ties' needs a base"),
        (["ties"], {"search": "none"}, "methods are searched, and search is none"),
    ):
        with pytest.raises(InputError, match=message):
            soup(models, bowl(base), methods=methods, **{"base": base, **options})


def test_a_method_that_is_kept_is_written_as_it_was_scored(tmp_path):
    base, *models = states(3, dtype=np.float32)
    target = stockpot.merge(models, method="ties", base=base, density=0.3, scale=1.4).state
    noise = 1e-4 * np.random.default_rng(0).standard_normal(60)
    done = soup(
        models,
        bowl(target, noise),
        base=base,
        budget=120,
        methods=["ties"],
        output=tmp_path / "out",
        layer_groups=1,
    )
    kept = done.results.kept
    assert kept.name == "search:ties"
    with open_checkpoint(done.model) as written:
        state = {name: written.read(name) for name in written.names}
    values = kept.parameters
    plain = stockpot.merge(models, method=kept.method, base=base, **values).state
    for name in plain:
        np.testing.assert_array_equal(state[name], plain[name])
    page = (tmp_path / "out/results.json").read_text()
    assert '"method": "ties"' in page
