"""What is refused, and what the refusal says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stockpot.errors import ScoreError
from stockpot.ranking.gram import Moments
from stockpot.ranking.scores import SCORES, Evidence, compute, defined, join_pair

from .worlds import world


def spoiled(field, position, number):
    evidence = world()
    array = getattr(evidence, field).copy()
    array[position] = number
    return replace(evidence, **{field: array})


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (spoiled("features", (7, 3), np.nan), "features: NaN or infinity in 1 of 60 rows.*row 7"),
        (spoiled("logits", (2, 0), np.inf), "logits: NaN or infinity in 1 of 60 rows.*row 2"),
        (replace(world(), features=np.zeros((59, 4))), "features: got 59 rows, expected 60"),
        (replace(world(), features=np.zeros((60, 0))), "none empty"),
        (replace(world(), features=np.zeros((60, 4), int)), "type int64, expected floats"),
        (replace(world(), targets=np.zeros(60, int)), "all 60 rows are of class 0"),
        (replace(world(), targets=np.linspace(0, 1, 60)), "expected one integer a row"),
        (replace(world(), targets=np.zeros(1, int), features=None), "two rows or more"),
        (replace(world(), kind="ranking"), "kind of task: got 'ranking'"),
        (replace(world("multilabel"), targets=np.full((60, 2), 2)), "expected 0/1"),
        (replace(world("regression"), targets=np.full(60, np.nan)), "finite numbers"),
        (replace(world(), pair=np.zeros((60, 3))), "pair: both sentences"),
        (replace(world(), groups=np.zeros(3)), r"groups: got shape \(3,\)"),
        (
            replace(world(), moments=Moments(classes=2).add(np.ones((4, 2)), np.zeros(4, int))),
            "moments: made from 4 rows",
        ),
        (
            replace(world(), moments=Moments(classes=9).add(np.ones((60, 12)), np.zeros(60, int))),
            "moments: made for 1 classes, the targets have 4",
        ),
    ],
)
def test_unsound_evidence_is_refused_with_its_place(evidence, words):
    with pytest.raises(ScoreError, match=words):
        compute(["logme"], evidence)


@pytest.mark.parametrize("factor", [1e-30, 1e25])
def test_features_of_any_sane_size_are_fine(factor):
    evidence = world(dtype=np.float64)
    found = compute(
        ["logme", "hscore", "reg_hscore", "transrate", "sfda"],
        replace(evidence, features=evidence.features * factor),
    )
    assert all(np.isfinite(value.value) for value in found.values())
    plain = compute(["hscore"], evidence)["hscore"].value
    assert found["hscore"].value == pytest.approx(plain, rel=1e-9)


def test_features_beyond_any_use_are_refused():
    evidence = world(dtype=np.float64)
    with pytest.raises(ScoreError, match=r"features: numbers up to .*e\+200"):
        compute(["logme"], replace(evidence, features=evidence.features * 1e200))


def test_logme_of_zeros_is_the_evidence_of_noise():
    y = world().targets
    value = compute(["logme"], Evidence(np.zeros((60, 5)), y))["logme"].value
    variance = 0.25 + 1e-5 / 60
    expected = -0.5 * (np.log(2 * np.pi * variance) + 0.25 / variance)
    assert value == pytest.approx(expected, abs=1e-9)


def test_an_unknown_name_lists_the_scores():
    with pytest.raises(ScoreError, match=r"no score is called 'logm'.*logme"):
        compute(["logm"], world())


@pytest.mark.parametrize("name", list(SCORES))
def test_what_is_missing_is_said_and_what_to_use_instead(name):
    bare = Evidence(features=world().features, targets=world().targets)
    if name in defined(bare):
        return
    with pytest.raises(ScoreError, match=f"{name} is not defined here: it needs .*use ") as caught:
        compute([name], bare)
    named = caught.value.hint.split()[1]
    assert named in defined(bare)


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_other_kinds_of_task(kind):
    evidence = world(kind)
    there = defined(evidence)
    assert {"logme", "loo_ridge", "knn"} <= set(there)
    for name, score in SCORES.items():
        assert (name in there) == (kind in score.kinds)
    with pytest.raises(ScoreError, match=f"the task is a {kind}.*use logme"):
        compute(["hscore"], evidence)


def test_nothing_is_computed_if_one_score_is_refused(monkeypatch):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr("stockpot.ranking.scores.Workspace", fail)
    with pytest.raises(ScoreError, match="leep is not defined"):
        compute(["logme", "leep"], replace(world(), logits=None))


def test_logits_alone_are_enough_for_some():
    evidence = replace(world(), features=None)
    assert set(defined(evidence)) == {"leep", "nce", "pactran_dirichlet", "pactran_gamma"}
    assert compute(["leep"], evidence) == compute(["leep"], world())


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_running_sums_alone_are_enough_for_some(kind):
    evidence = world(kind)
    if kind == "classification":
        moments = Moments(classes=4).add(evidence.features, evidence.targets)
    else:
        moments = Moments(columns=2).add(evidence.features, evidence.targets)
    bare = replace(evidence, features=None, logits=None, moments=moments)
    names = defined(bare)
    assert "logme" in names
    found, expected = compute(names, bare), compute(names, evidence)
    for name in names:
        assert found[name].value == pytest.approx(expected[name].value, rel=1e-5)


def test_running_sums_may_know_of_classes_that_no_row_has():
    evidence = world()
    moments = Moments(classes=9, precision=64).add(evidence.features, evidence.targets + 3)
    bare = Evidence(None, evidence.targets, moments=moments)
    for name in defined(bare):
        expected = compute([name], evidence)[name].value
        assert compute([name], bare)[name].value == pytest.approx(expected, rel=1e-9)


def test_values_come_in_the_order_of_the_names_and_once():
    assert list(compute(["hscore", "logme", "hscore"], world())) == ["hscore", "logme"]


def test_scores_together_are_scores_alone():
    evidence = world()
    for name, value in compute(list(SCORES), evidence).items():
        assert value.value == pytest.approx(compute([name], evidence)[name].value, rel=1e-9)


def test_sentence_pairs_are_joined():
    first, second = world(), world(seed=1)
    joined = replace(first, features=join_pair(first.features, second.features))
    paired = replace(first, pair=second.features)
    assert joined.features.shape == (60, 48)
    names = ["logme", "hscore", "knn", "sfda"]
    assert compute(names, paired) == compute(names, joined)


def test_declarations_are_complete():
    for name, score in SCORES.items():
        assert score.name == name
        assert score.formula
        assert score.source
        assert score.when.endswith(".")
        assert set(score.instead) <= set(SCORES)


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_nleep_does_not_depend_on_scale(factor, kind):
    evidence = world()
    features = (evidence.features * factor).astype(kind)
    value = compute(["nleep"], replace(evidence, features=features))["nleep"].value
    assert value == pytest.approx(compute(["nleep"], evidence)["nleep"].value, abs=1e-3)


def test_lists_and_tensors_are_arrays():
    torch = pytest.importorskip("torch")
    evidence = replace(world(), logits=None)
    names = defined(evidence, cheap=True)
    expected = compute(names, evidence)
    double = evidence.features.astype(np.float64)
    lists = Evidence(double.tolist(), evidence.targets.tolist())
    tensors = Evidence(
        torch.tensor(evidence.features, requires_grad=True), torch.tensor(evidence.targets)
    )
    for found in (compute(names, lists), compute(names, tensors)):
        for name in names:
            assert found[name].value == pytest.approx(expected[name].value, rel=1e-4)
    half = Evidence(torch.tensor(evidence.features, dtype=torch.bfloat16), evidence.targets)
    assert half.features.dtype == np.float32
