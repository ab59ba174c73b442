"""Candidates and searches in bowls whose best coefficients are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stockpot.errors import StockpotError
from stockpot.evaluation.selection import greedy_soup
from stockpot.soups.candidates import SoupCandidate
from stockpot.soups.choice import is_level, leader, preferred, shortfalls
from stockpot.soups.measuring import TriedBlend
from tests.soups.bowls import bowl, maker, mixed, states

BEST = np.array([0.55, 0.2, 0.4])


def in_bowl(best=BEST, **options):
    base, *models = states(len(best))
    return maker(models, bowl(mixed(base, models, best), 0.0), base=base, **options)


def row(maker, name):
    return next(one for one in maker.rows if one.name == name)


def test_greedy_is_the_plain_recipe():
    base, *models = states(5)
    score = bowl(mixed(base, models, [0.5, 0.45, 0.0, 0.02, 0.0]))
    cook = maker(models, score)
    cook.cheap()

    def mean(members):
        return {n: np.mean([models[int(i)][n] for i in members], axis=0) for n in base}

    oracle = greedy_soup(
        {str(i): score(model) for i, model in enumerate(models)}, lambda m: score(mean(m))
    )
    kept = row(cook, "greedy").scored
    assert {str(i) for i in kept.blend.members} == set(oracle.members)
    assert kept.score == pytest.approx(oracle.score, rel=1e-9)
    assert row(cook, "best").scored.score == pytest.approx(max(map(score, models)))


def test_leave_one_out_and_curve_are_the_plain_means():
    base, *models = states(3)
    score = bowl(mixed(base, models, BEST))
    cook = maker(models, score, base=base)
    cook.cheap()
    for index, scored in cook.left_out.items():
        rest = [m for i, m in enumerate(models) if i != index]
        plain = score({n: np.mean([m[n] for m in rest], axis=0) for n in base})
        assert scored.score == pytest.approx(plain)
    curve = [score(mixed(base, models, np.full(3, a / 3))) for a in (0.2, 0.4, 0.6, 0.8, 1.0)]
    assert row(cook, "wise:uniform").scored.score == pytest.approx(max(curve))
    assert row(cook, "base").scored.score == pytest.approx(score(base))


def grid(score, base, models):
    """Evaluations that a grid of step 0.1 over [-0.5, 1.5] needs, and how near it comes."""
    steps = np.round(np.arange(-0.5, 1.51, 0.1), 1)
    nearest = max(
        score(mixed(base, models, c)) for c in itertools.product([0.5, 0.6], [0.2], [0.4])
    )
    return len(steps) ** 3, nearest


@pytest.mark.parametrize("racing", [True, False])
def test_the_search_finds_the_bottom_within_a_thousandth(racing):
    cook = in_bowl(budget=400, racing=racing)
    cook.cheap()
    cook.search("cmaes", 1, 0.0)
    found = row(cook, "search").scored
    np.testing.assert_allclose(found.blend.totals, BEST, atol=1e-3)

    base, *models = states(3)
    score = bowl(mixed(base, models, BEST))
    count, nearest = grid(score, base, models)
    assert len(cook.evaluations.trace) < count
    assert found.score > nearest
    rng = np.random.default_rng(0)
    drawn = max(score(mixed(base, models, rng.uniform(-0.5, 1.5, 3))) for _ in range(400))
    assert found.score > drawn


def test_the_search_finds_coefficients_of_layers():
    base, *models = states(2)
    wanted = {name: [0.8, 0.1] if place < 3 else [0.1, 0.7] for place, name in enumerate(base)}
    cook = maker(models, bowl(mixed(base, models, wanted)), base=base, budget=900)
    cook.cheap()
    cook.search("cmaes", 2, 0.0)
    found = row(cook, "search:layers").scored
    expected = np.array([wanted[name] for name in cook.engine.changes]).T
    np.testing.assert_allclose(found.blend.coefficients, expected, atol=1e-3)
    assert found.score > row(cook, "search").scored.score


def test_the_parzen_search_beats_what_it_started_from_and_random_draws():
    cook = in_bowl(budget=90)
    cook.cheap()
    known = cook.evaluations.best.score
    cook.search("optuna", 1, 0.0)
    found = row(cook, "search").scored
    assert found.score > known
    assert cook.evaluations.budget.spent <= 90
    assert found.score > max(one.score for one in in_bowl(budget=90).draws(90))


def test_a_budget_is_never_exceeded_and_its_end_is_said():
    for budget in (4, 7, 12, 25):
        cook = in_bowl(budget=budget)
        cook.cheap()
        cook.search("cmaes", 4, 0.0)
        assert cook.evaluations.budget.spent <= budget
        assert len(cook.evaluations.trace) <= budget
        assert row(cook, "best").scored.complete
    assert any("leave-one-out" in note or "budget" in note for note in in_short().notes)


def in_short():
    cook = in_bowl(budget=7)
    cook.cheap()
    return cook


def test_a_search_that_gains_too_little_ends():
    base, *models = states(3)
    cook = maker(models, bowl(mixed(base, models, BEST)), base=base, budget=5000)
    cook.cheap()
    cook.search("cmaes", 1, 1e-3)
    assert cook.evaluations.budget.spent < 1000


def flat_rows(state, rows):
    """All models are equally good; what differs is noise, other noise for other weights."""
    total = float(sum(np.abs(v).sum() for v in state.values()))
    key = int.from_bytes(np.float64(total).tobytes(), "little") % (1 << 32)
    return np.random.default_rng([key, 5]).standard_normal(400)[rows]


def test_noise_alone_keeps_the_simplest():
    kept = []
    for seed in range(5):
        _, *models = states(4, seed=seed)
        cook = maker(models, flat_rows, size=400, budget=80)
        cook.cheap()
        cook.search("cmaes", 1, 0.0)
        behind = shortfalls(cook.rows)
        assert leader(cook.rows).name != "uniform"
        allowed = [one.scored.complete for one in cook.rows]
        kept.append(preferred(cook.rows, behind, allowed).name)
    assert kept.count("uniform") >= 4


def test_what_is_clearly_behind_the_best_single_model_is_not_level():
    """However wide the interval of a search's lead: a plain one of the best model is narrower."""
    rng = np.random.default_rng(0)
    _, *models = states(3)
    blends = maker(models, flat).blends

    def candidate(name, mean, decisions, looks=()):
        scores = rng.standard_normal(400)
        scores += mean - scores.mean()
        return SoupCandidate(
            name, name, TriedBlend(blends.uniform(), mean, scores), decisions, tuple(looks)
        )

    best, uniform = candidate("best", 0.0, 1), candidate("uniform", -0.16, 0)
    looks = [candidate(str(i), 0.0, 0).scored for i in range(50)]
    rows = [best, uniform, candidate("search", 0.05, 50, looks)]
    behind = shortfalls(rows)
    assert behind[1].mean == pytest.approx(0.16)
    assert preferred(rows, behind, [True] * 3).name == "best"
    rows[1] = candidate("uniform", -0.1, 0)
    assert preferred(rows, shortfalls(rows), [True] * 3).name == "uniform"


def flat(state):
    return 0.0


def test_a_real_difference_is_kept():
    base, *models = states(3)
    best = mixed(base, models, BEST)
    noise = 0.02 * np.random.default_rng(0).standard_normal(300)
    score = bowl(best)
    cook = maker(
        models, lambda state, rows: score(state) + noise[rows], base=base, size=300, budget=200
    )
    cook.cheap()
    cook.search("cmaes", 1, 0.0)
    behind = shortfalls(cook.rows)
    chosen = preferred(cook.rows, behind, [one.scored.complete for one in cook.rows])
    assert chosen.name == "search"
    assert chosen is leader(cook.rows)
    levels = {
        one.name: is_level(one, chosen, gap) for one, gap in zip(cook.rows, behind, strict=True)
    }
    assert levels["search"]
    assert not levels["best"]
    assert not levels["uniform"]


def test_racing_finds_the_same_winner_with_half_of_the_rows():
    """Rows of the real kind: right or wrong, more often right near the bottom of the bowl."""
    base, *models = states(12, std=0.05)
    best = mixed(base, models, [0.9, *[0.0] * 11])
    uniforms = np.random.default_rng(1).random(2000)
    seen = []

    def score(state, rows):
        total = sum(((state[n] - best[n]) ** 2).sum() for n in best)
        seen.append(len(rows))
        return (uniforms[rows] < 0.95 * np.exp(-2 * total)).astype(float)

    winners, read = [], []
    for racing in (False, True):
        seen.clear()
        cook = maker(models, score, size=2000, racing=racing)
        cook._singles()
        cook._greedy()
        winners.append([row(cook, name).scored.blend.members for name in ("best", "greedy")])
        read.append(sum(seen))
    assert winners[0] == winners[1]
    assert read[1] <= read[0] / 2


def test_an_evaluator_that_fails_on_some_models_loses_those_only():
    base, *models = states(4)
    score = bowl(mixed(base, models, [0.5, 0.5, 0.0, 0.0]))
    said = []

    def failing(state):
        if np.array_equal(state["head.weight"], models[2]["head.weight"]):
            raise ValueError("boom\nand more")
        if np.array_equal(state["head.weight"], models[1]["head.weight"]):
            return float("nan")
        return score(state)

    cook = maker(models, failing, base=base)
    cook.evaluations.say = said.append
    cook.cheap()
    assert [one.failure for one in cook.singles] == [
        None,
        "the score is nan",
        f"{failing.__qualname__}: ValueError: boom and more",
        None,
    ]
    assert len(said) == 2
    assert not any("\n" in words for words in said)
    assert set(row(cook, "greedy").scored.blend.members) <= {0, 3}


def test_an_evaluator_that_fails_always_ends_the_run_with_its_reason():
    _, *models = states(5)

    def failing(state):
        raise RuntimeError("no such data")

    cook = maker(models, failing)
    with pytest.raises(StockpotError, match=r"first 3 models.*no such data"):
        cook.cheap()
    assert len(cook.evaluations.trace) == 2
