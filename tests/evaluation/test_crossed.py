import numpy as np
import pytest
from scipy import stats

from stockpot.evaluation.crossed import (
    CrossedMean,
    crossed_difference,
    crossed_mean,
    numbered,
    single_error,
)
from stockpot.evaluation.student import quantile


def simulate(generator, trials, size, training, interaction, domains="x"):
    """One world: example difficulty shared by trials, trial effects, and their interaction."""
    cells = {}
    for domain in domains:
        example = generator.normal(0, 0.3, size)
        for trial in range(trials):
            noise = generator.normal(0, interaction, size)
            shift = generator.normal(0, training)
            cells[(domain, trial)] = {"": 0.5 + example + shift + noise}
    return cells


def mean_of(cells, **options):
    numbers, size = numbered(cells, None)
    return crossed_mean(cells, numbers, size, **options)


@pytest.mark.parametrize("tail", [0.4, 0.025, 1e-3, 1e-6])
@pytest.mark.parametrize("freedom", [0.7, 1, 2.5, 8, 300, 2e5, 1e7])
def test_quantiles_are_those_of_scipy(tail, freedom):
    assert quantile(tail, freedom) == pytest.approx(stats.t.isf(tail, freedom), rel=2e-5)


def test_no_quantile_beyond_the_middle():
    with pytest.raises(ValueError, match="no quantile"):
        quantile(0.7, 3)


@pytest.mark.parametrize(
    ("training", "interaction"), [(0.0, 0.3), (0.02, 0.3), (0.05, 0.0)], ids=str
)
@pytest.mark.parametrize("domains", ["x", "xyz"])
def test_variance_of_the_crossed_design_is_right(training, interaction, domains):
    """On average the truth, (s_e^2/n + s_t^2/T + s_et^2/(nT)) / D, and nothing counted twice."""
    generator = np.random.default_rng(5)
    trials, size = 4, 100
    estimated = []
    for _ in range(400):
        mean = mean_of(simulate(generator, trials, size, training, interaction, domains))
        estimated.append(mean.shared + mean.scatter)
    truth = 0.09 / size + training**2 / trials + interaction**2 / (size * trials)
    assert np.mean(estimated) == pytest.approx(truth / len(domains), rel=0.1)


def test_one_trial_of_several_domains_is_a_t_interval_of_the_domains():
    cells = simulate(np.random.default_rng(1), 1, 500, 0.2, 0.1, "abcd")
    mean = mean_of(cells)
    known = [values[""].mean() for values in cells.values()]
    half = stats.sem(known) * stats.t.isf(0.025, 3)
    assert (mean.freedom, mean.trials, mean.domains) == (3.0, 1, 4)
    assert mean.margin(0.05) == pytest.approx(half, rel=1e-6)
    assert not mean_of(cells, across=False).covers_trainings


@pytest.mark.parametrize(("domains", "trials"), [("a", 1), ("ab", 1), ("a", 2)])
def test_less_than_two_degrees_of_freedom_say_nothing_of_trainings(domains, trials):
    mean = mean_of(simulate(np.random.default_rng(1), trials, 50, 0.2, 0.1, domains))
    assert not mean.covers_trainings
    assert mean.margin(0.05) == pytest.approx(1.96 * mean.examples**0.5, rel=0.05)


@pytest.mark.parametrize("differ", [3, 5, 8, 20, 60])
def test_few_differing_examples_are_judged_about_as_the_exact_sign_test_does(differ):
    """Two models that differ on a few of 2,000 examples, always in favour of the same one."""
    values = np.zeros(2000)
    values[:differ] = 1.0
    mean = mean_of({("x", 0): {"": values}})
    beyond = mean.mean / mean.examples**0.5
    ours = 2 * stats.t.sf(beyond, mean.example_freedom)
    exact = 2 * 0.5**differ
    assert (ours < 0.05) == (exact < 0.07)
    assert ours > exact / 2


def test_trainings_that_agree_by_chance_give_no_point():
    """The margin is at least half of what the test rows alone make it."""
    values = np.random.default_rng(3).normal(size=80)
    cells = {("x", t): {"": np.random.default_rng(t).permutation(values)} for t in range(3)}
    mean = mean_of(cells)
    assert mean.scatter == pytest.approx(0.0, abs=1e-12)
    rows = quantile(0.025, mean.example_freedom) * mean.examples**0.5
    assert mean.shared < mean.examples / 4
    assert mean.margin(0.05) == pytest.approx(rows / 2)


def test_sources_of_a_cell_are_averaged_and_shared_examples_count_once():
    """Two held-out domains that validate on the same rows know no more than one does."""
    rng = np.random.default_rng(4)
    art, photo = rng.normal(size=300), rng.normal(size=60)
    rows = {"art": np.arange(300), "photo": np.arange(300, 360)}
    cells = {("a", 0): {"art": art, "photo": photo}, ("b", 0): {"art": art, "photo": photo}}
    numbers, size = numbered(cells, dict.fromkeys(cells, rows))
    twice = crossed_mean(cells, numbers, size)
    once = crossed_mean({("a", 0): cells[("a", 0)]}, numbers, size)
    assert size == 360
    assert twice.mean == once.mean == pytest.approx((art.mean() + photo.mean()) / 2)
    assert twice.examples == pytest.approx(once.examples)
    assert once.examples == pytest.approx((art.var() / 300 + photo.var() / 60) / 4)


def test_what_pools_trials_is_one_training_a_domain():
    rng = np.random.default_rng(6)
    many = simulate(rng, 3, 200, 0.1, 0.1, "abcd")
    pooled = simulate(rng, 1, 200, 0.1, 0.1, "abcd")
    numbers, size = numbered(many, None)
    gap = crossed_difference(pooled, many, numbers, size)
    assert (gap.trials, gap.freedom) == (1, 3.0)
    assert gap.mean == pytest.approx(mean_of(pooled).mean - mean_of(many).mean)


def independent(count, scatter=0.0, freedom=0.0):
    """``count`` means that rest on examples of their own."""
    rows = np.eye(count).repeat(40, axis=1) * np.tile([1.0, -1.0], 20 * count)
    return [CrossedMean(0.0, line, float(line @ line), scatter, freedom, 1, 1) for line in rows]


def test_together_independent_means_are_corrected_as_sidak_says():
    error = single_error(independent(10), 0.05)
    assert error == pytest.approx(1 - 0.95**0.1, rel=0.08)


def test_together_equal_means_are_one():
    one = independent(1)[0]
    assert single_error([one] * 12, 0.05) == pytest.approx(0.05, rel=0.05)
    assert single_error([one], 0.05) == 0.05


def test_means_that_cannot_move_are_no_comparison():
    still = CrossedMean(0.0, np.zeros(40), 0.0, 0.0, 0.0, 1, 1)
    assert single_error([still] * 5 + independent(1)[:1], 0.05) == 0.05
    assert still.margin(0.05) == 0.0


def test_these_trainings_alone_have_no_scatter():
    mean = mean_of(simulate(np.random.default_rng(2), 4, 60, 0.1, 0.2))
    assert mean.scatter > 0
    assert mean.freedom > 0
    alone = mean.of_these_trainings()
    assert (alone.scatter, alone.freedom, alone.covers_trainings) == (0.0, 0.0, False)
    assert alone.shared == alone.examples == mean.examples


def test_domains_do_not_stand_in_for_trainings_where_levels_are_asked_for():
    cells = simulate(np.random.default_rng(3), 1, 50, 0.2, 0.1, "abc")
    level = mean_of(cells, across=False)
    assert (level.scatter, level.freedom) == (0.0, 0.0)
    assert level.shared == level.examples


def test_one_mean_many_times_counts_once_also_where_trainings_are_unknown():
    """Two trials of one domain: less is shared than examples make, and no training is seen."""
    one = mean_of(simulate(np.random.default_rng(4), 2, 40, 0.0, 0.4))
    assert not one.covers_trainings
    assert one.shared + one.scatter < one.examples
    assert single_error([one] * 12, 0.05) == 0.05
