"""Every score against its slow reference, and what must hold for it whatever the data."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import ortho_group

from stockpot.errors import ScoreError
from stockpot.ranking.scores import SCORES, compute

from .references import REFERENCES
from .worlds import world


@dataclass(frozen=True)
class Facts:
    """What does not change a score's value, and how near the reference is."""

    rotation: bool = False
    shift: bool = False
    scale: bool = False
    order: bool = True
    tolerance: float = 1e-6


FREE = Facts(rotation=True, shift=True, scale=True)
FACTS = {
    "logme": Facts(rotation=True),
    "hscore": FREE,
    "reg_hscore": FREE,
    "transrate": Facts(rotation=True, shift=True),
    "sfda": Facts(shift=True),
    "gbc": Facts(rotation=True, shift=True),
    "etran": Facts(),
    # Where the variance is large no shrinkage is left, and the discriminant is scale-free.
    "ncti": Facts(rotation=True, shift=True),
    "parc": Facts(shift=True, scale=True),
    "pactran": Facts(rotation=True, shift=True, tolerance=1e-5),
    "int": Facts(rotation=True, shift=True),
    "concept_variance": Facts(shift=True, scale=True),
    "knn": FREE,
    "loo_ridge": FREE,
    # The mixture starts from points drawn by their place.
    "nleep": Facts(order=False),
    "linear_probe": Facts(order=False),
}
CASES = [
    pytest.param(name, kind, id=f"{name}-{kind}")
    for name, score in SCORES.items()
    for kind in score.kinds
]
CHECKED = [case for case in CASES if case.values[0] in REFERENCES]


def facts(name: str) -> Facts:
    return FACTS.get(name, Facts())


def value(name, evidence):
    return compute([name], evidence)[name].value


def same(name, evidence, other):
    return value(name, other) == pytest.approx(value(name, evidence), rel=2e-5, abs=2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "kind"), CHECKED)
def test_is_what_the_paper_says(name, kind, dtype):
    evidence = world(kind, dtype=dtype)
    tolerance = facts(name).tolerance
    expected = REFERENCES[name](evidence)
    assert value(name, evidence) == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("rows", [24, 40])
@pytest.mark.parametrize(
    "name",
    ["logme", "hscore", "reg_hscore", "transrate", "gbc", "loo_ridge", "knn", "sfda"],
)
def test_is_what_the_paper_says_with_more_features_than_rows(name, rows):
    evidence = world(rows=rows, width=48)
    assert value(name, evidence) == pytest.approx(REFERENCES[name](evidence), rel=1e-6, abs=1e-6)


def test_every_deterministic_score_has_a_reference():
    assert set(SCORES) - set(REFERENCES) == {"linear_probe"}


@pytest.mark.parametrize(("name", "kind"), [c for c in CASES if facts(c.values[0]).order])
def test_the_order_of_rows_does_not_matter(name, kind):
    evidence = world(kind)
    order = np.random.default_rng(5).permutation(len(evidence.targets))
    moved = replace(
        evidence,
        **{field: getattr(evidence, field)[order] for field in ("features", "targets", "logits")},
    )
    assert same(name, evidence, moved)


@pytest.mark.parametrize("name", [n for n, s in SCORES.items() if "classification" in s.kinds])
def test_names_of_classes_do_not_matter(name):
    evidence = world()
    # In the same order: the stable sort by class is what the random scores draw from.
    assert same(name, evidence, replace(evidence, targets=evidence.targets * 10 - 7))


@pytest.mark.parametrize("name", [n for n in SCORES if facts(n).order])
def test_the_order_of_classes_does_not_matter(name):
    evidence = world()
    assert same(
        name, evidence, replace(evidence, targets=np.array([9, 2, 40, 3])[evidence.targets])
    )


@pytest.mark.parametrize("name", [n for n in SCORES if facts(n).rotation])
def test_rotation_of_features_does_not_matter(name):
    evidence = world(dtype=np.float64)
    turn = ortho_group.rvs(12, random_state=3)
    assert same(name, evidence, replace(evidence, features=evidence.features @ turn))


@pytest.mark.parametrize("name", [n for n in SCORES if facts(n).shift])
def test_shift_of_features_does_not_matter(name):
    evidence = world(dtype=np.float64)
    moved = evidence.features + np.random.default_rng(2).normal(size=12) * 3
    assert same(name, evidence, replace(evidence, features=moved))


@pytest.mark.parametrize("factor", [0.125, 6.0])
@pytest.mark.parametrize("name", [n for n in SCORES if facts(n).scale])
def test_scale_of_features_does_not_matter(name, factor):
    evidence = world(dtype=np.float64)
    assert same(name, evidence, replace(evidence, features=evidence.features * factor))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_same_twice(name, kind):
    evidence = world(kind)
    assert value(name, evidence) == value(name, evidence)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_input_is_left_as_it_is(name, kind):
    evidence = world(kind)
    before = evidence.features.copy(), evidence.targets.copy(), evidence.logits.copy()
    compute([name], evidence)
    for kept, array in zip(
        before, (evidence.features, evidence.targets, evidence.logits), strict=True
    ):
        np.testing.assert_array_equal(kept, array)


def cut(evidence, **changes):
    return replace(evidence, **changes)


def one_row_a_class():
    evidence = world(rows=12)
    return cut(evidence, targets=np.arange(12))


def constant_features():
    evidence = world()
    return cut(evidence, features=np.full_like(evidence.features, 2.5))


def one_row_of_a_class():
    evidence = world()
    targets = evidence.targets.copy()
    targets[5] = 9
    return cut(evidence, targets=targets)


def zeros():
    evidence = world()
    return cut(evidence, features=np.zeros_like(evidence.features))


def constant_columns():
    evidence = world()
    features = evidence.features.copy()
    features[:, [2, 7]] = 1.0
    return cut(evidence, features=features)


def repeated_columns():
    evidence = world()
    features = np.concatenate([evidence.features, evidence.features], axis=1)
    return cut(evidence, features=features)


def equal_rows():
    evidence = world()
    features = evidence.features.copy()
    features[1:30] = features[0]
    return cut(evidence, features=features)


def few_rows():
    return world(rows=5, width=3, classes=2)


@pytest.mark.parametrize(
    "make",
    [
        one_row_a_class,
        constant_features,
        one_row_of_a_class,
        zeros,
        constant_columns,
        repeated_columns,
        equal_rows,
        few_rows,
    ],
)
@pytest.mark.parametrize("name", list(SCORES))
def test_poor_data_give_a_finite_value_or_a_clear_error(name, make):
    with suppress(ScoreError):
        assert np.isfinite(compute([name], make())[name].value)
