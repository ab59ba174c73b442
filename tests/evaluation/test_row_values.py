"""Metrics against scikit-learn, their row values against derivatives and redrawn rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as reference
from scipy.special import softmax

from stockpot.errors import InputError
from stockpot.evaluation import paired_bootstrap
from stockpot.evaluation.metrics import (
    METRICS,
    Metric,
    default_metric,
    ensemble,
    fitting_metric,
    metrics_beside,
)
from stockpot.evaluation.row_values import BINS
from stockpot.evaluation.selection import best, greedy_soup, validation_score

EVERY = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())


def data(kind: str, seed: int, size: int = 200, classes: int = 4) -> tuple[Any, Any]:
    """Outputs that know something, labels of uneven classes; a class may have no row."""
    random = np.random.default_rng(seed)
    if kind == "regression":
        labels = random.normal(2.0, 3.0, size)
        return labels + random.normal(0, 1.5, size), labels
    labels = random.choice(classes, size, p=random.dirichlet(np.full(classes, 1.5)))
    labels[:2] = 0, 1
    logits = random.normal(0, 2, (size, classes))
    logits[np.arange(size), labels] += 1.0
    return logits, labels


def weighted(metric: Metric, outputs: Any, labels: Any, weights: Any = None) -> float:
    """The metric as others compute it, of rows that count as much as their weights."""
    if metric.kind == "regression":
        function = {
            "r2": reference.r2_score,
            "rmse": reference.root_mean_squared_error,
            "mae": reference.mean_absolute_error,
        }[metric.name]
        return float(function(labels, outputs, sample_weight=weights))
    probabilities, chosen = softmax(outputs, axis=1), outputs.argmax(axis=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
        match metric.name:
            case "accuracy":
                return float(reference.accuracy_score(labels, chosen, sample_weight=weights))
            case "balanced_accuracy":
                return float(
                    reference.balanced_accuracy_score(labels, chosen, sample_weight=weights)
                )
            case "macro_f1":
                return float(
                    reference.f1_score(labels, chosen, average="macro", sample_weight=weights)
                )
            case "auroc":
                areas = [
                    reference.roc_auc_score(
                        labels == name, probabilities[:, name], sample_weight=weights
                    )
                    for name in np.unique(labels)
                ]
                return float(np.mean(areas))
            case "log_loss":
                names = np.arange(outputs.shape[1])
                return float(
                    reference.log_loss(labels, probabilities, labels=names, sample_weight=weights)
                )
    weights = np.ones(len(labels)) if weights is None else weights
    total, confidence = 0.0, probabilities.max(axis=1)
    for index in range(BINS):
        inside = (confidence > index / BINS) & (confidence <= (index + 1) / BINS)
        gap = weights[inside] * ((chosen == labels)[inside] - confidence[inside])
        total += abs(gap.sum()) / weights.sum()
    return float(total)


@EVERY
@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("size", [12, 300])
def test_the_mean_of_the_rows_is_the_metric(metric: Metric, classes: int, size: int) -> None:
    for seed in range(8):
        outputs, labels = data(metric.kind, seed, size, classes)
        value = metric.value(outputs, labels)
        assert value == pytest.approx(weighted(metric, outputs, labels), abs=1e-12)
        assert metric.low <= value <= metric.high
        assert metric.score(outputs, labels) == (value if metric.higher_is_better else -value)


def test_two_classes_give_the_binary_auroc() -> None:
    logits, labels = data("classification", 3, classes=2)
    expected = reference.roc_auc_score(labels, softmax(logits, axis=1)[:, 1])
    assert METRICS["auroc"].value(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_several_classes_give_the_auroc_of_one_against_the_rest() -> None:
    logits, labels = data("classification", 4)
    assert set(labels) == set(range(4))
    expected = reference.roc_auc_score(labels, softmax(logits, axis=1), multi_class="ovr")
    assert METRICS["auroc"].value(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_auroc_counts_ties_half_and_survives_probabilities_of_one() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 60)
    logits = random.integers(-1, 2, (60, 1)) * np.array([[0.0, 400.0]])
    pairs = logits[labels == 1, 1][:, None] - logits[labels == 0, 1]
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert METRICS["auroc"].value(logits, labels) == pytest.approx(expected, abs=1e-12)


# R2's rows take the labels' variance as known, so that old numbers stay what they were.
@pytest.mark.parametrize("name", list(METRICS))
def test_a_row_s_value_is_the_metric_and_the_row_s_influence(name: str) -> None:
    """The influence is the derivative by the row's weight (infinitesimal jackknife)."""
    metric, step = METRICS[name], 1e-4
    for seed in range(2):
        outputs, labels = data(metric.kind, seed, size=40)
        values = metric.row_values(outputs, labels)
        for row in range(0, len(labels), 3):
            ends = []
            for change in (step, -step):
                weights = np.ones(len(labels))
                weights[row] += change
                ends.append(weighted(metric, outputs, labels, weights))
            slope = (ends[0] - ends[1]) / (2 * step) * len(labels)
            assert values[row] - values.mean() == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("name", list(METRICS))
def test_intervals_are_as_wide_as_those_of_redrawn_rows(name: str) -> None:
    metric = METRICS[name]
    outputs, labels = data(metric.kind, 5, size=400)
    other = outputs + 0.7 * np.random.default_rng(6).normal(size=outputs.shape)
    where = ("domain", 0)
    found = paired_bootstrap(
        {
            "one": {where: metric.row_scores(outputs, labels)},
            "other": {where: metric.row_scores(other, labels)},
        },
        "other",
        resamples=8000,
    )["one"]
    random, drawn = np.random.default_rng(1), []
    for _ in range(1000):
        rows = random.integers(len(labels), size=len(labels))
        pair = [metric.score(each[rows], labels[rows]) for each in (outputs, other)]
        drawn.append((pair[0], pair[0] - pair[1]))
    assert found.difference is not None
    for interval, draws in zip((found.overall, found.difference), np.transpose(drawn), strict=True):
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * draws.std(), rel=0.1)


def perfect_and_noisy(metric: Metric) -> dict[str, Any]:
    """Outputs that are right and sure, a little wrong, and without any knowledge."""
    outputs, labels = data(metric.kind, 7)
    random = np.random.default_rng(8)
    if metric.kind == "regression":
        perfect = labels.astype(float)
        return {"perfect": perfect, "near": outputs, "noise": random.permutation(labels) * 2}
    perfect = np.where(labels[:, None] == np.arange(4), 40.0, 0.0)
    return {"noise": random.normal(0, 6, perfect.shape), "perfect": perfect, "near": outputs}


@EVERY
def test_a_perfect_model_is_selected(metric: Metric) -> None:
    models = perfect_and_noisy(metric)
    _, labels = data(metric.kind, 7)
    assert metric.value(models["perfect"], labels) == pytest.approx(
        metric.high if metric.higher_is_better else 0.0, abs=1e-12
    )
    scores = {name: metric.score(outputs, labels) for name, outputs in models.items()}
    assert best(scores) == "perfect"
    assert scores["perfect"] > scores["noise"]

    def evaluate(members: tuple[str, ...]) -> float:
        joined = ensemble([models[name] for name in members], metric.kind)
        return validation_score({"domain": metric.row_scores(joined, labels)}, "pooled")

    chosen = greedy_soup(scores, evaluate)
    assert chosen.members[0] == "perfect"
    assert "noise" not in chosen.members
    cells = {
        name: {("domain", 0): metric.row_scores(outputs, labels)}
        for name, outputs in models.items()
    }
    table = paired_bootstrap(cells, "noise", metric=metric.name)
    assert max(table, key=lambda name: table[name].overall.mean) == "perfect"
    difference = table["perfect"].difference
    assert difference is not None
    assert difference.low > 0
    assert difference.words.startswith("better by ")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: METRICS["auroc"].value(np.zeros((3, 2)), [1, 1, 1]), "all 3 rows have class 1"),
        (lambda: METRICS["auroc"].check_labels(np.array([0, 0])), "all 2 rows have class 0"),
        (lambda: METRICS["r2"].check_labels(np.array([2, 2])), "all 2 labels are 2"),
        (lambda: fitting_metric("rmse", "classification"), "is for regression.*accuracy, balanced"),
        (lambda: fitting_metric("f2", "regression"), "'f2' is unknown.*r2, rmse, mae"),
        (lambda: METRICS["log_loss"].value([[np.inf, 0.0]], [0]), "not finite"),
    ],
)
def test_what_has_no_value_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_a_class_without_rows_counts_as_in_scikit_learn() -> None:
    """Recall leaves it out, F1 counts it as 0 once it is predicted, AUROC leaves it out."""
    logits, labels = np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 1, 0])
    assert METRICS["balanced_accuracy"].value(logits, labels) == (1 + 0.5) / 2
    assert METRICS["macro_f1"].value(logits, labels) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert METRICS["auroc"].value(logits, labels) == pytest.approx((1 + 0.75) / 2)


@EVERY
def test_metrics_reported_by_default_have_a_value_on_any_rows(metric: Metric) -> None:
    names = metrics_beside(metric)
    assert metric.name not in names
    outputs = {"classification": [[2.0, -1.0]], "regression": [2.0]}[metric.kind]
    for name in names:
        assert np.isfinite(METRICS[name].value(outputs, [1]))
    assert default_metric(metric.kind).name in ("accuracy", "r2")


def test_log_loss_of_a_certain_mistake_is_finite() -> None:
    assert METRICS["log_loss"].value([[1e4, 0.0]], [1]) == 1e4
