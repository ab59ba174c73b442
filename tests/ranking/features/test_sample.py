"""Every beginning of the sample order is a fair sample; the stop rule tells noise from signal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stockpot.ranking.features import sample_order, stability
from tests.training.tiny import array_task, image_task


def test_every_prefix_is_stratified_by_class_and_domain() -> None:
    task = image_task(n=120)
    order = sample_order(task)
    assert sorted(order) == list(range(120))
    for count in (12, 24, 60, 96):
        rows = order[:count]
        both = task.labels[rows] * 3 + task.domain_ids[rows]
        sizes = np.bincount(both, minlength=6)
        assert sizes.max() - sizes.min() <= 3
    assert len(set(task.labels[order[:2]])) == 2


def test_rare_classes_come_early() -> None:
    task = image_task(n=120)
    labels = np.zeros(120, dtype=np.int64)
    labels[[50, 77]] = 1
    order = sample_order(replace(task, labels=labels))
    assert {50, 77} <= set(order[:8])


def test_the_order_depends_on_seed_and_content_alone() -> None:
    task = image_task()
    np.testing.assert_array_equal(sample_order(task), sample_order(task))
    assert (sample_order(task, seed=1) != sample_order(task)).any()
    rows = np.array([3, 4, 5, 20, 21, 22])
    assert sorted(sample_order(task, rows)) == list(rows)


def test_numbers_are_spread_over_their_range() -> None:
    task = array_task("regression", n=200)
    rows = sample_order(task)[:60]
    found = np.quantile(task.labels[rows], [0.1, 0.5, 0.9])
    truth = np.quantile(task.labels, [0.1, 0.5, 0.9])
    np.testing.assert_allclose(found, truth, atol=0.35 * task.labels.std())


def scores(quality: np.ndarray, noise: float, rows: int):
    draw = np.random.default_rng(0).normal(size=(len(quality), rows)) * noise

    def evaluate(positions: np.ndarray) -> dict[str, float]:
        values = quality + draw[:, positions].mean(axis=1)
        return {f"m{i}": float(value) for i, value in enumerate(values)}

    return evaluate


def test_a_clear_ranking_is_settled_and_a_noisy_one_is_not() -> None:
    strata = np.arange(100) % 4
    quality = np.linspace(0, 1, 8)
    clear = stability(scores(quality, 0.01, 100), strata)
    assert clear.settled
    assert clear.same_best == 1.0
    noisy = stability(scores(np.zeros(8), 1.0, 100), strata)
    assert not noisy.settled
    assert noisy.agreement < clear.agreement
    assert noisy.rows == 100


def test_half_samples_scatter_as_the_mean_does() -> None:
    """The spread over half-samples is the standard error of the mean, as a bootstrap's is."""
    rows = 400
    found = stability(scores(np.zeros(6), 1.0, rows), np.zeros(rows), resamples=200)
    assert np.mean(list(found.spread.values())) == pytest.approx(1 / np.sqrt(rows), rel=0.1)


def test_models_without_a_value_on_half_of_the_rows_do_not_break_it() -> None:
    def evaluate(positions: np.ndarray) -> dict[str, float]:
        return {"a": 1.0, "b": 0.5 if len(positions) == 20 else float("nan"), "c": 0.0}

    assert stability(evaluate, np.zeros(20)).agreement == 1.0
    assert stability(lambda rows: {"only": 1.0}, np.zeros(20)).settled
