"""Every constant of the posterior stands in a number here: whoever changes one has to say so."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.ranking.posterior import fit
from stockpot.ranking.posterior.fallback import MemberWeights, Rivals, Trust, trust
from stockpot.ranking.posterior.forecast import deviations, expected_spread
from stockpot.ranking.posterior.learning import _mixture, _rank_errors, _weights, bucket
from stockpot.ranking.posterior.trials import Trial, draw_trials
from tests.ranking.posterior.worlds import world


def test_temperature() -> None:
    """A point that is better by 0.07 over ten tasks weighs e times as much."""
    better, worse = _weights(np.tile([0.57, 0.5], (10, 1)))
    assert better / worse == pytest.approx(np.e)


def test_a_model_at_its_expected_rank_is_off_by_nothing() -> None:
    """Ranks count from 1: between the two models that lie next to it, not a half or a whole on."""
    mean, values = np.array([2.0, 0.0, -2.0]), np.array([[3.0], [2.0], [1.0]])
    trial = Trial(0, np.empty(0, dtype=np.int64), np.arange(3))
    errors = _rank_errors(mean, np.full(3, 0.1), np.empty(0), trial, values)
    assert np.abs(errors).max() < 0.4
    assert errors[1] == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(("models", "tasks", "learnt"), [(6, 3, 3), (5, 3, 0), (6, 2, 0)])
def test_from_how_much_history_something_is_learnt(models: int, tasks: int, learnt: int) -> None:
    assert fit(world(models=models, tasks=tasks)).settings[0].tasks == learnt


def test_a_short_history_is_played_to_72_trials_with_at_most_half_as_anchors() -> None:
    known = np.ones((8, 5), dtype=bool)
    trials = draw_trials(known, np.arange(5), 5, np.random.default_rng(0))
    assert len(trials) == 75
    assert {len(trial.anchors) for trial in trials} == {4}


def test_one_surprise_in_ten_tasks_is_worth_its_share_and_half_a_task() -> None:
    """Ten tasks, each explained by one factor alone: (count + 1/2) / (10 + 6/2)."""
    chances = np.zeros((10, 6))
    chances[:9, 1] = chances[9, 4] = 1.0
    weights = dict(_mixture(chances))
    assert list(weights) == [0.35, 0.7, 1.4, 2.8, 5.6, 11.2]
    assert list(weights.values()) == pytest.approx(np.array([1, 19, 1, 1, 3, 1]) / 26, abs=1e-6)


def test_buckets_of_anchors() -> None:
    assert [bucket(count) for count in (0, 1, 10, 11, 99)] == [0, 5, 5, 20, 20]


def test_deviations_and_spread() -> None:
    found = deviations(np.array([2.0, 0.5]), 0.5)
    assert found == pytest.approx(np.sqrt([1.5 + 0.25, 0.05 + 0.25]))
    assert deviations(np.array([2.0]), 0.5, 0.0) == pytest.approx(np.sqrt([1.5]))

    class Known:
        mean, variance = np.array([-1.0, 1.0]), 0.3

    assert expected_spread(np.zeros(5), Known()) == pytest.approx(np.sqrt(0.5 + 0.3))  # type: ignore[arg-type]


def test_trust_is_what_scatter_leaves_of_a_gain() -> None:
    gains = np.array([0.1, 0.3, 0.2, 0.2])
    error = gains.std(ddof=1) / 2
    found = trust(gains)
    assert (found.gain, found.error, found.tasks) == (pytest.approx(0.2), pytest.approx(error), 4)
    assert found.weight == pytest.approx(1 - (error / 0.2) ** 2)
    assert trust(-gains).weight == trust(np.array([0.5])).weight == 0.0
    assert trust(np.array([0.4, -0.3])).weight == 0.0
    assert str(found) == "+0.200 +- 0.041 over 4 tasks left out"


def test_members_of_the_mixture() -> None:
    assert MemberWeights(0.25, Trust(0.8)).weights == pytest.approx([0.2, 0.2, 0.6])
    rows = np.array([[1.0, -1.0], [0.0, 0.5], [-1.0, 0.4], [0.2, 0.1]])
    plain, like = Rivals(rows)(rows.mean(axis=1), np.arange(3), np.array([3.0, 2.0, 1.0]))
    assert plain == pytest.approx(rows.mean(axis=1))
    agree = np.exp(4.0 * np.array([1.0, -0.5]))
    columns = rows @ agree / agree.sum()
    slope = (like[0] - like[1]) / (columns[0] - columns[1])
    assert like - like[0] == pytest.approx(slope * (columns - columns[0]))
    assert slope == pytest.approx(1.0)
    two, same = Rivals(rows)(rows.mean(axis=1), np.arange(2), np.array([3.0, 2.0]))
    assert two == pytest.approx(same)  # two models agree with anything
    left = Rivals(rows)(rows[:, 1], np.arange(3), np.array([3.0, 2.0, 1.0]), without=0)
    assert left[0] == pytest.approx(rows[:, 1])


GOLDEN = {
    0: {
        "middle cut": 0.3562620,
        "noise": 1.0,
        "general": 0.5,
        "likeness": 0.45,
        "like": 0.0,
        "trust": 0.5386233,
        "low": -1.3211623,
        "high": 1.1442242,
        "metric low": -2.5,
        "metric width": 0.8673541,
        "sharpness": 3.4804863,
        "merit": 0.7119762,
    },
    5: {
        "middle cut": 0.3458740,
        "noise": 0.7812282,
        "general": 0.4634711,
        "likeness": 0.4313925,
        "like": 0.0,
        "trust": 0.6606116,
        "low": -1.2439762,
        "high": 1.3500983,
        "metric low": -1.8686651,
        "metric width": 1.0,
        "sharpness": 2.2592357,
        "merit": 0.7343351,
    },
}


@pytest.mark.parametrize("anchors", [0, 5])
def test_what_a_small_history_teaches(anchors: int) -> None:
    """Grid, temperature, trials, quantiles and sharpness in one: numbers of one small world."""
    found = fit(world(models=12, tasks=7, noise=0.2, seed=2)).settings[anchors]
    told = {
        "middle cut": found.scale.weights[1],
        "noise": found.noise,
        "general": found.general,
        "likeness": found.likeness,
        "like": found.blend.like,
        "trust": found.blend.trust.weight,
        "low": found.low,
        "high": found.high,
        "metric low": found.metric_low,
        "metric width": found.metric_width,
        "sharpness": sum(factor * weight for factor, weight in found.sharpness),
        "merit": found.merit,
    }
    assert told == pytest.approx(GOLDEN[anchors], rel=1e-4)
