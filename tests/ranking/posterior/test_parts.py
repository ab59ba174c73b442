"""The pieces of the posterior against slow references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from stockpot.ranking.posterior.condition import TEMPER, Observations, condition
from stockpot.ranking.posterior.covariance import FACTORS, LIKENESS, Profiles
from stockpot.ranking.posterior.marginals import (
    GaussianOutcomes,
    expected_improvement,
    probability_best,
)
from stockpot.ranking.posterior.metadata import learn_prior, make_encoder
from stockpot.ranking.posterior.model import few_anchors
from stockpot.ranking.posterior.scale import (
    CUTS,
    MonotoneScale,
    cut,
    metric_of,
    place_anchors,
    typical_metric,
)


def dense(rows: np.ndarray, general: float) -> np.ndarray:
    """The covariance as :mod:`covariance` writes it, with loops and a full SVD."""
    count, tasks = rows.shape
    mean = rows.mean(axis=1)
    profile = rows - mean[:, None]
    left, values, _ = np.linalg.svd(profile, full_matrices=False)
    low = left[:, :FACTORS] * values[:FACTORS]
    linear = 0.5 * profile @ profile.T / tasks + 0.5 * low @ low.T / tasks
    variance = ((profile**2).sum() / count + 0.5) / tasks
    distances = ((rows[:, None] - rows) ** 2).sum(axis=2)
    alike = np.exp(-distances / (2 * np.median(distances)))
    centred = mean - mean.mean()
    result: np.ndarray = (
        (1 - LIKENESS) * linear
        + LIKENESS * variance * alike
        + general * np.outer(centred, centred)
        + variance
    )
    return result


@pytest.fixture
def rows() -> np.ndarray:
    random = np.random.default_rng(3)
    strong = random.normal(size=(25, 3)) @ random.normal(size=(3, 9)) * 3
    return np.asarray(strong + 0.3 * random.normal(size=(25, 9)))


def test_covariance_is_what_its_formula_says(rows: np.ndarray) -> None:
    some = np.array([2, 7, 11])
    profiles = Profiles(rows)
    shared = profiles.shared(some)
    expected = dense(rows, 0.7)
    assert np.allclose(shared.base + 0.7 * shared.general, expected[:, some], rtol=1e-6)
    base, general = profiles.own(shared)
    assert np.allclose(base + 0.7 * general, np.diag(expected), rtol=1e-6)


def test_leaving_a_task_out_is_the_same_as_never_having_had_it(rows: np.ndarray) -> None:
    some = np.arange(4)
    with_out = Profiles(rows).shared(some, without=5)
    fresh = Profiles(np.delete(rows, 5, axis=1))
    fresh.median_distance = Profiles(rows).median_distance  # one scale of likeness for all
    never = fresh.shared(some)
    assert np.allclose(with_out.mean, never.mean)
    assert with_out.variance == pytest.approx(never.variance)
    assert np.allclose(with_out.base, never.base, rtol=1e-5)


def test_covariance_is_positive_semidefinite(rows: np.ndarray) -> None:
    shared = Profiles(rows).shared(np.arange(len(rows)))
    assert np.linalg.eigvalsh(shared.base + shared.general).min() > -1e-8


def test_guessed_rows_are_not_alike_for_sharing_a_guess() -> None:
    rows = np.zeros((3, 5))
    rows[0] = np.arange(5.0)
    covariance = Profiles(rows, np.array([1.0, 0.0, 0.0])).shared(np.arange(3)).base
    assert covariance[1, 2] < covariance[1, 1]


def test_conditioning_against_the_textbook() -> None:
    random = np.random.default_rng(0)
    root = random.normal(size=(8, 8))
    prior = root @ root.T
    seen = Observations(
        np.array([1, 4, 4]),
        np.array([0.5, -1.0, 0.3]),
        np.array([1.0, 1.0, 0.4]),
        np.array([0.1, 0.2, 0.7]),
    )
    design = np.zeros((3, 8))
    design[range(3), seen.rows] = seen.gain
    inverse = np.linalg.inv(design @ prior @ design.T + np.diag(seen.noise))
    found = condition(prior[:, seen.rows], seen)
    assert np.allclose(found.shift, prior @ design.T @ inverse @ seen.residual)
    assert np.allclose(found.reduction, np.diag(prior @ design.T @ inverse @ design @ prior))
    assert np.allclose(found.parts.sum(axis=1), found.shift)


def test_a_mixture_over_old_tasks_against_its_definition() -> None:
    """Component by component: Gaussian conditioning, tempered likelihoods, moments of a mixture."""
    random = np.random.default_rng(3)
    root = random.normal(size=(8, 8))
    prior, alike = root @ root.T, random.normal(size=(8, 5))
    seen = Observations(
        np.array([1, 4, 6]),
        np.array([0.5, -1.0, 0.3]),
        np.array([1.0, 1.0, 0.4]),
        np.array([0.1, 0.2, 0.7]),
    )
    design = np.zeros((3, 8))
    design[range(3), seen.rows] = seen.gain
    seen_covariance = design @ prior @ design.T + np.diag(seen.noise)
    gain = prior @ design.T @ np.linalg.inv(seen_covariance)
    means = [m + gain @ (seen.residual - design @ m) for m in alike.T]
    chance = np.array(
        [
            multivariate_normal(design @ m, seen_covariance).pdf(seen.residual) ** TEMPER
            for m in alike.T
        ]
    )
    chance /= chance.sum()
    middle = chance @ np.array(means)
    within = np.diag(prior - gain @ design @ prior)
    between = chance @ (np.array(means) - middle) ** 2
    found = condition(prior[:, seen.rows], seen, alike)
    assert np.allclose(found.tasks, chance)
    assert np.allclose(found.shift, middle)
    assert np.allclose(np.diag(prior) - found.reduction, within + between)


def test_a_mixture_spreads_as_its_one_gaussian_does(rows: np.ndarray) -> None:
    """With L unreduced: the covariance of a component and that of their means add up to K."""
    profiles, everyone = Profiles(rows[:, :3]), np.arange(len(rows))
    shared = profiles.shared(everyone)
    whole, part = shared.covariance(0.4), shared.covariance(0.4, 0.8)
    left = 1.0 - 0.8**2
    kept = shared.variance + 0.4 * shared.general
    assert np.allclose(part - kept, left * (whole - kept))
    assert np.allclose(shared.variances(profiles.own(shared), 0.4, 0.8), np.diag(part))


def test_ranks_and_best_against_simulation() -> None:
    random = np.random.default_rng(1)
    mean, deviation = random.normal(size=7), random.uniform(0.1, 1.0, size=7)
    deviation[2] = 0.01
    draws = mean + deviation * random.normal(size=(200_000, 7))
    ranks = (-draws).argsort(axis=1).argsort(axis=1) + 1
    assert np.allclose(GaussianOutcomes(mean, deviation).ranks(), ranks.mean(axis=0), atol=0.02)
    best = np.bincount(draws.argmax(axis=1), minlength=7) / len(draws)
    assert np.allclose(probability_best(mean, deviation), best, atol=0.005)


def test_many_models_are_ranked_on_a_grid_nearly_exactly() -> None:
    random = np.random.default_rng(2)
    mean, deviation = random.normal(size=600), random.uniform(0.3, 0.8, size=600)
    spread = np.sqrt(deviation[:, None] ** 2 + deviation**2)
    exact = 0.5 + norm.cdf((mean - mean[:, None]) / spread).sum(axis=1)
    assert np.abs(GaussianOutcomes(mean, deviation).ranks() - exact).max() < 0.6


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=12), st.floats(1e-3, 3.0))
@settings(max_examples=40, deadline=None)
def test_p_best_is_a_distribution(means: list[float], deviation: float) -> None:
    chance = probability_best(np.array(means), np.full(len(means), deviation))
    assert chance.sum() == pytest.approx(1.0)
    assert (chance >= 0).all()


def test_equal_certain_models_share_the_chance() -> None:
    chance = probability_best(np.array([1.0, 1.0, 0.0]), np.full(3, 1e-9))
    assert np.allclose(chance, [0.5, 0.5, 0.0], atol=1e-6)


def test_expected_improvement_against_simulation() -> None:
    draws = np.random.default_rng(0).normal(0.3, 0.7, size=400_000)
    found = expected_improvement(np.array([0.3]), np.array([0.7]), 0.5)
    assert found[0] == pytest.approx(np.maximum(draws - 0.5, 0).mean(), abs=5e-3)


def test_scale_draws_in_the_lower_tail() -> None:
    scores = np.array([-3.0, -0.7, 0.4])
    assert np.allclose(cut(0)(scores), scores)
    assert np.allclose(cut(2)(scores), [-0.5, -0.5, 0.4])
    mixed = MonotoneScale((0.5, 0.0, 0.5))(scores)
    assert np.allclose(mixed, (scores + np.maximum(scores, CUTS[2])) / 2)


def test_anchors_keep_order_mean_and_spread() -> None:
    values = np.array([71.0, 75.0, 20.0, 74.0, 74.5])
    placed = place_anchors(values, MonotoneScale(), 0.3, 0.8)
    assert (np.argsort(placed) == np.argsort(values)).all()
    assert placed.mean() == pytest.approx(0.3)
    # The diverged run is last, not eleven standard deviations off.
    assert placed.min() > 0.3 - 3 * 0.8
    assert np.allclose(place_anchors(np.full(4, 5.0), MonotoneScale(), 0.1, 1.0), 0.1)
    # 60 % of equal values leave no width between the percentiles; ranks still order them.
    flat = place_anchors(np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0]), MonotoneScale(), 0.0, 1.0)
    assert flat[-1] > flat[0]


def test_metric_is_the_way_back() -> None:
    values = np.array([71.0, 75.0, 60.0, 74.0])
    placed = place_anchors(values, MonotoneScale(), 0.0, 1.0)
    assert np.allclose(metric_of(placed, placed, values), values)
    outside = metric_of(np.array([placed.min() - 1.0, placed.max() + 1.0]), placed, values)
    assert outside[0] < 60.0
    assert outside[1] > 75.0


def test_few_anchors_widen_as_students_t_does() -> None:
    assert few_anchors(3) == pytest.approx(2.920 / 2.132, abs=1e-3)
    assert few_anchors(4) == pytest.approx(2.353 / 2.132, abs=1e-3)
    assert few_anchors(5) == few_anchors(30) == 1.0


def test_other_tasks_tell_the_metric_with_their_scatter() -> None:
    grid = np.linspace(-1, 1, 5)
    columns = [(50.0 + level + 10.0 * grid, grid) for level in (-5.0, 0.0, 5.0)]
    mean, off = typical_metric(columns, np.array([0.0]))
    # Student's t with 2 degrees of freedom, 95 %: 2.92; spread 5 sqrt(1 + 1/3).
    assert mean[0] == pytest.approx(50.0)
    assert off[0] == pytest.approx(2.91998558 * 5.0 * np.sqrt(4.0 / 3.0))
    assert typical_metric(columns[:1], np.array([0.0]))[1][0] == np.inf


def test_facts_that_tell_are_used_and_others_are_not() -> None:
    random = np.random.default_rng(0)
    sizes = np.exp(random.normal(18, 1, size=80))
    family = random.integers(3, size=80)
    level = np.log(sizes) - 18 + 0.8 * (family == 1)
    rows = level[:, None] + 0.3 * random.normal(size=(80, 6))
    facts = [
        {"parameters": float(s), "family": "abc"[f]} for s, f in zip(sizes, family, strict=True)
    ]
    prior = learn_prior(facts, rows, np.full(80, 6.0))
    assert prior.explained > 0.8
    bigger, smaller = prior([{"parameters": 1e9}, {"parameters": 1e7}]).mean(axis=1)
    assert bigger > smaller + 2.0
    noise = learn_prior(facts, random.normal(size=(80, 6)), np.full(80, 6.0))
    assert noise.explained < 0.1
    if noise.explained == 0.0:
        assert "do not predict" in noise.reason
        assert not noise(facts[:2]).any()


def test_the_ridge_is_left_one_out_exactly() -> None:
    """R^2 as reported equals refitting without each model in turn (one ridge, equal weights)."""
    random = np.random.default_rng(4)
    x = random.normal(size=40)
    rows = (x + 0.5 * random.normal(size=40))[:, None]
    facts = [{"score": float(v)} for v in x]
    prior = learn_prior(facts, rows, np.ones(40))
    design = ((x - x.mean()) / x.std())[:, None]
    best = np.inf
    for ridge in 10.0 ** np.arange(-1.0, 4.0, 0.5):
        errors = []
        for i in range(40):
            keep = np.arange(40) != i
            a, y = design[keep], rows[keep, 0]
            middle, level = a.mean(), y.mean()
            slope = ((a[:, 0] - middle) @ (y - level)) / (((a - middle) ** 2).sum() + ridge)
            errors.append(rows[i, 0] - level - slope * (design[i, 0] - middle))
        best = min(best, float(np.mean(np.square(errors))))
    plain = float((((rows - rows.mean()) / (1 - 1 / 40)) ** 2).mean())
    assert prior.explained == pytest.approx(1 - best / plain, abs=0.01)


def test_facts_with_gaps_words_and_nonsense() -> None:
    encoder = make_encoder(
        [
            {"parameters": 1e6, "family": "a"},
            {"parameters": 1e7, "family": "a"},
            {"parameters": -1.0, "family": "b"},
            {"parameters": 1e8, "family": "c", "constant": 1.0},
        ]
    )
    assert encoder is not None
    assert list(encoder.numbers) == ["parameters"]
    assert encoder.words == (("family", "a"),)
    assert encoder([{}]).tolist() == [[0.0, 0.0]]
    assert make_encoder([{"x": 1.0}, {"x": 1.0}, {}]) is None
