"""How far rows that were not seen can move a metric: exact ends, and no worse case."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.evaluation.intervals import paired_bootstrap
from stockpot.evaluation.metrics import METRICS
from stockpot.evaluation.unseen import Stratum, largest_fall

COUNTS = ([40, 40], [5, 60], [60, 5], [7, 20, 40], [30, 3, 3, 12])
STAKED = [metric for metric in METRICS.values() if metric.at_stake is not None]


def shares(rows: np.ndarray, error: float, rng: np.random.Generator) -> np.ndarray:
    """A draw from all shares that stay unseen with probability ``error``."""
    doubt = rng.dirichlet(np.full(len(rows), rng.choice([0.1, 1.0, 10.0])))
    return 1 - error ** (doubt / rows)


@pytest.mark.parametrize("seed", range(30))
def test_no_shares_that_stay_unseen_take_off_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, weights = rng.integers(1, 200, 4), rng.random(4) * rng.choice([1, 10], 4)
    strata = [Stratum(int(n), float(w)) for n, w in zip(rows, weights, strict=True)]
    bound = largest_fall(strata, 0.025)
    falls = [float(weights @ shares(rows, 0.025, rng)) for _ in range(4000)]
    assert max(falls) <= bound + 1e-12
    assert max(falls) >= 0.9 * bound
    assert largest_fall([strata[0]], 0.025) == pytest.approx(
        weights[0] * (1 - 0.025 ** (1 / rows[0]))
    )


def with_bad_rows(counts: np.ndarray, bad: np.ndarray, rng: np.random.Generator) -> tuple:
    """A perfect model on many rows, but for these shares of each class: those look like another
    class, and more so than that class's own rows."""
    scale = 400
    labels = np.repeat(np.arange(len(counts)), counts * scale)
    outputs = 9.0 * np.eye(len(counts))[labels]
    for own, share in enumerate(bad):
        rows = np.flatnonzero(labels == own)[: round(share * counts[own] * scale)]
        others = [c for c in range(len(counts)) if c != own]
        other = min(others, key=lambda c: counts[c]) if rng.random() < 0.5 else rng.choice(others)
        outputs[rows] = 30.0 * np.eye(len(counts))[other] - 30.0 * np.eye(len(counts))[own]
    return outputs, labels


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("metric", STAKED, ids=lambda metric: metric.name)
def test_bad_rows_of_a_class_take_off_what_is_at_stake_at_most(metric, counts) -> None:
    rng = np.random.default_rng(len(counts))
    sizes = np.array(counts)
    strata = metric.strata(np.repeat(np.arange(len(counts)), counts))
    weights = np.array([one.weight for one in strata])
    assert [one.rows for one in strata] == counts
    for _ in range(25):
        bad = shares(sizes, 0.025, rng)
        fall = abs(
            metric.value(*with_bad_rows(sizes, bad, rng))
            - metric.value(*with_bad_rows(sizes, 0 * bad, rng))
        )
        assert fall <= weights @ bad + 2e-3
    if metric.name in ("auroc", "balanced_accuracy"):  # nothing is given away, two classes
        bad = np.array([0.0] * (len(counts) - 1) + [0.3])
        fall = 1 - metric.value(*with_bad_rows(sizes, bad, rng))
        assert len(counts) > 2 or fall == pytest.approx(weights @ bad, abs=2e-3)


@pytest.mark.parametrize("metric", STAKED, ids=lambda metric: metric.name)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_a_perfect_model_is_never_certain(metric, counts) -> None:
    """Two domains: the interval of their mean is narrower than that of one, and no point."""
    labels = np.repeat(np.arange(len(counts)), counts)
    scores = metric.row_scores(60.0 * np.eye(len(counts))[labels], labels)
    strata = {where: metric.strata(labels) for where in ("a", "b")}
    estimate = paired_bootstrap(
        {"m": {(where, 0): scores for where in strata}},
        metric=metric.name,
        within=metric.scores_within,
        strata=strata,
    )["m"]
    best = metric.sign * (1.0 if metric.higher_is_better else 0.0)
    one, both = estimate.domains["a"], estimate.overall
    assert both.high == one.high == pytest.approx(best)
    assert one.low < both.low < best
    assert best - one.low == pytest.approx(min(1.0, largest_fall(strata["a"], 0.025)))


@pytest.mark.parametrize("rows", [12, 40, 150])
def test_a_better_model_has_no_lower_end(rows: int) -> None:
    """A bootstrap puts all rows right below one row wrong, were it not for unseen rows."""
    lows = []
    for wrong in range(6):
        scores = np.r_[np.zeros(wrong), np.ones(rows - wrong)]
        lows.append(paired_bootstrap({"m": {("x", 0): scores}})["m"].overall.low)
    assert lows == sorted(lows, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("metric", STAKED[:4], ids=lambda metric: metric.name)
@pytest.mark.parametrize("wrong", [0.003, 0.02])
@pytest.mark.parametrize(("rows", "share"), [(40, 0.5), (150, 0.2)])
def test_intervals_of_nearly_perfect_models_cover(metric, wrong, rows, share) -> None:
    """Where most test sets show no mistake: a bootstrap of the same covers 11 to 95 %."""

    def world(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        labels = (rng.random(size) < share).astype(int)
        labels[:2] = 0, 1
        side = np.where(rng.random(size) < wrong, -1, 1) * (2 * labels - 1)
        return np.stack([-side, side + rng.normal(0, 0.1, size)], axis=1), labels

    truth = metric.value(*world(400_000, np.random.default_rng(0)))
    hits = 0
    for number in range(400):
        outputs, labels = world(rows, np.random.default_rng(1 + number))
        interval = paired_bootstrap(
            {"m": {("x", 0): metric.row_scores(outputs, labels)}},
            metric=metric.name,
            within=metric.scores_within,
            strata={"x": metric.strata(labels)},
            resamples=200,
            seed=number,
        )["m"].overall
        hits += interval.low <= truth <= interval.high
    assert hits / 400 >= 0.93
