import time

import numpy as np
import pytest

from stockpot.errors import InputError
from stockpot.evaluation.claims import compare
from stockpot.evaluation.intervals import paired_bootstrap
from stockpot.evaluation.metrics import METRICS


def coin(rate, size, seed):
    return (np.random.default_rng(seed).random(size) < rate).astype(float)


def test_interval_of_one_cell_is_that_of_a_proportion():
    scores = coin(0.7, 2000, 0)
    estimate = paired_bootstrap({"erm": {("art", 0): scores}})["erm"]
    mean = scores.mean()
    half = 1.96 * np.sqrt(mean * (1 - mean) / 2000)
    assert estimate.overall.mean == mean
    assert estimate.overall.low == pytest.approx(mean - half, abs=0.002)
    assert estimate.overall.high == pytest.approx(mean + half, abs=0.002)
    assert "not other trainings" in estimate.covers


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda one: one.name)
@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("size", [8, 30])
def test_no_interval_leaves_what_the_metric_allows(metric, noise, size):
    """Models that are nearly right, wrong, or right on nearly every row, on few rows."""
    rng = np.random.default_rng(size)
    labels = np.arange(size) % 2
    right = np.eye(2)[labels] if metric.kind == "classification" else labels * 1.0
    cells = {
        name: {
            ("x", 0): metric.row_scores(
                10 * side * right + rng.normal(0, noise, right.shape), labels
            )
        }
        for name, side in (("good", 1), ("bad", -1))
    }
    low, high = metric.scores_within
    assert sorted(abs(end) for end in (low, high)) == sorted(map(abs, (metric.low, metric.high)))
    for estimate in paired_bootstrap(cells, "bad", within=(low, high)).values():
        assert low <= estimate.overall.low <= estimate.overall.mean + 1e-12
        assert estimate.overall.mean - 1e-12 <= estimate.overall.high <= high
        if estimate.difference:
            assert abs(estimate.difference.high) <= high - low
    claim = compare(cells, "good", "bad", metric=metric.name)
    assert low - high <= claim.low <= claim.high <= high - low


def test_difference_is_paired():
    """Two models that differ on 10 of 1,000 examples: the interval knows only those ten."""
    base = coin(0.7, 1000, 1)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:10]] = 1
    result = paired_bootstrap({"a": {("x", 0): base}, "b": {("x", 0): better}}, "a")
    gap = result["b"].difference
    assert gap.mean == pytest.approx(0.01)
    assert 0.003 < gap.low < 0.01 < gap.high < 0.018
    assert gap.words == f"better by 1.0 points ({100 * gap.low:.1f} to {100 * gap.high:.1f})"
    assert result["a"].difference is None


def test_identical_protocols_have_no_difference_at_all():
    cells = {("x", t): coin(0.6, 300, t) for t in range(3)}
    gap = paired_bootstrap({"a": cells, "b": cells}, "a")["b"].difference
    assert (gap.mean, gap.low, gap.high) == (0, 0, 0)
    assert gap.words == "the same on every example"


def test_overall_is_the_plain_mean_over_domains():
    scores = {"a": {("big", 0): np.ones(900), ("small", 0): np.zeros(100)}}
    estimate = paired_bootstrap(scores)["a"]
    assert estimate.overall.mean == 0.5
    assert estimate.domains["big"].low == pytest.approx(0.025 ** (1 / 900))
    assert estimate.overall.low == pytest.approx(0.025 ** (1 / 900) / 2)
    assert estimate.overall.high == pytest.approx(1 - 0.025 ** (1 / 100) / 2)


def simulate(generator, trials, size, training, interaction):
    """One world: example difficulty shared by trials, trial effects, and their interaction."""
    example = generator.normal(0, 0.3, size)
    trial = generator.normal(0, training, trials)
    noise = generator.normal(0, interaction, (trials, size))
    return {("x", t): 0.5 + example + trial[t] + noise[t] for t in range(trials)}


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(11)
    hits = 0
    for world in range(300):
        cells = {
            (domain, trial): values
            for domain in "abcd"
            for (_, trial), values in simulate(generator, 3, 100, 0.02, 0.3).items()
        }
        overall = paired_bootstrap({"a": cells}, resamples=300, seed=world)["a"].overall
        hits += overall.low <= 0.5 <= overall.high
    assert 0.88 <= hits / 300 <= 0.985


@pytest.mark.parametrize(("domains", "trials"), [("a", 3), ("abcd", 2)])
def test_few_trials_give_wide_intervals(domains, trials):
    """Training noise far above that of the examples: still right about 95 times of 100."""
    generator = np.random.default_rng(17)
    hits = 0
    for world in range(300):
        cells = {
            (domain, trial): values
            for domain in domains
            for (_, trial), values in simulate(generator, trials, 100, 0.2, 0.3).items()
        }
        overall = paired_bootstrap({"a": cells}, resamples=100, seed=world)["a"].overall
        hits += overall.low <= 0.5 <= overall.high
    assert 0.92 <= hits / 300 <= 0.985


def test_interval_equals_that_of_a_plain_bootstrap():
    """The slow way, one resample at a time with the same draws, gives the same interval."""
    scores = coin(0.7, 60, 2)
    picks = np.random.default_rng(0).integers(60, size=(250, 60))
    slow = [scores[rows].mean() for rows in picks]
    overall = paired_bootstrap({"a": {("x", 0): scores}}, resamples=250, seed=0)["a"].overall
    assert (overall.low, overall.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))


def test_trials_on_different_examples_are_matched_by_identity():
    rng = np.random.default_rng(3)
    examples = {("x", 0): rng.permutation(500)[:300], ("x", 1): rng.permutation(500)[:250]}
    cells = {cell: coin(0.8, len(ids), 7) for cell, ids in examples.items()}
    estimate = paired_bootstrap({"a": cells}, examples=examples)["a"].overall
    assert estimate.mean == pytest.approx(np.mean([each.mean() for each in cells.values()]))
    assert 0.02 < estimate.high - estimate.low < 0.12


def test_a_protocol_that_pools_trials_is_compared_with_one_that_does_not():
    single = {("x", t): coin(0.6, 1000, t) for t in range(3)}
    pooled = {("x", 0): coin(0.8, 1000, 9)}
    result = paired_bootstrap({"single": single, "pooled": pooled}, "single")
    assert result["pooled"].difference.low > 0.1
    assert "not other" in result["pooled"].covers
    assert "and other trainings" in result["single"].covers


def test_same_seed_same_interval():
    scores = {"a": {("x", t): coin(0.6, 100, t) for t in range(2)}}
    assert paired_bootstrap(scores, seed=4) == paired_bootstrap(scores, seed=4)
    assert paired_bootstrap(scores, seed=4) != paired_bootstrap(scores, seed=5)


def test_full_size_takes_seconds():
    """Ten protocols, 4 domains x 3 trials, 4,000 examples each, 2,000 resamples: under 5 s."""
    scores = {
        f"p{p}": {(d, t): coin(0.7, 4000, 100 * p + t) for d in "abcd" for t in range(3)}
        for p in range(10)
    }
    start = time.process_time()
    paired_bootstrap(scores, "p0", resamples=2000)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ({}, {}, "no protocol"),
        ({"a": {("x", 0): [1.0]}}, {"baseline": "b"}, "choose one of: a"),
        ({"a": {("x", 0): [1.0]}, "b": {("y", 0): [1.0]}}, {}, "'a' has no scores for domain 'y'"),
        ({"a": {("x", 0): [1.0, 0.0]}, "b": {("x", 0): [1.0]}}, {}, "expected \\(2,\\)"),
        ({"a": {("x", 0): [np.nan]}}, {}, "not finite for domain 'x', trial 0"),
        ({"a": {("x", 0): [1.0]}}, {"examples": {("x", 0): [1, 2]}}, "expected \\(2,\\)"),
    ],
)
def test_bad_input(scores, options, message):
    with pytest.raises(InputError, match=message):
        paired_bootstrap(scores, **options)


@pytest.mark.parametrize("rows", [1, 20, 150])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_of_none_or_all_has_the_exact_interval(rows: int, value: float) -> None:
    """Clopper and Pearson's bound is where so many rows alike have probability 2.5 %."""
    cells = {(domain, 0): np.full(rows, value) for domain in ("a", "b")}
    estimate = paired_bootstrap({"m": cells})["m"]
    for interval, count in ((estimate.domains["a"], rows), (estimate.overall, 2 * rows)):
        ends = (interval.low, interval.high) if value else (1 - interval.high, 1 - interval.low)
        assert ends[1] == 1.0
        assert ends[0] ** count == pytest.approx(0.025)
        assert interval.mean == value
    other = paired_bootstrap({"m": cells}, metric="log_loss")["m"].overall
    assert other.low == other.high == value
