"""OTCE's weights, OSBORN's ensembles, and the search by reduced kernel mean embeddings."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize

from stockpot.errors import ScoreError
from stockpot.ranking.scores import Value, compute
from stockpot.ranking.scores.rkme import (
    Rkme,
    discrepancy,
    kernel,
    search,
    simplex_weights,
    specify,
)
from stockpot.ranking.scores.transport import fit_weights, pick_ensemble

from .references import entropy_given
from .worlds import world


def test_otce_weights_are_found_again():
    rng = np.random.default_rng(0)
    values = [
        Value(0.0, {"domain_difference": w, "task_difference": h}) for w, h in rng.random((6, 2))
    ]
    accuracies = np.array(
        [
            0.9 - 0.2 * v.details["domain_difference"] - 0.4 * v.details["task_difference"]
            for v in values
        ]
    )
    assert fit_weights(values, accuracies) == pytest.approx((-0.2, -0.4, 0.9))
    with pytest.raises(ScoreError, match="three auxiliary tasks"):
        fit_weights(values[:2], accuracies[:2])


def test_source_and_target_that_are_the_same_need_no_transport():
    evidence = world()
    source = replace(evidence.source, features=evidence.features, targets=evidence.targets)
    value = compute(["osborn"], replace(evidence, source=source))["osborn"]
    assert value.value == pytest.approx(0.0, abs=1e-5)


def pool(count=5, rows=80):
    rng = np.random.default_rng(3)
    values = {f"m{i}": Value(-float(x)) for i, x in enumerate(rng.random(count))}
    common = rng.normal(size=(rows, 4))
    logits = {name: common + rng.normal(size=(rows, 4)) for name in values}
    return values, logits


def osborn_of(members, values, logits):
    total = sum(values[name].value for name in members)
    for first, second in itertools.permutations(members, 2):
        total -= entropy_given(logits[first].argmax(axis=1), logits[second].argmax(axis=1))
    return total


def test_the_greedy_pick_takes_the_largest_gain_each_time():
    values, logits = pool()
    picks = pick_ensemble(values, logits, 3)
    members = []
    for pick in picks:
        before = osborn_of(members, values, logits)
        gains = {
            name: osborn_of([*members, name], values, logits) - before
            for name in values
            if name not in members
        }
        assert pick.gain == pytest.approx(max(gains.values()))
        assert gains[pick.name] == pytest.approx(pick.gain)
        members.append(pick.name)


def test_gains_fall_as_the_ensemble_grows():
    values, logits = pool()
    gains = [pick.gain for pick in pick_ensemble(values, logits, 5)]
    assert gains == sorted(gains, reverse=True)
    with pytest.raises(ScoreError, match="expected 1 to 5"):
        pick_ensemble(values, logits, 6)


def test_weights_on_the_simplex_are_optimal():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(12, 3))
    matrix = kernel(points, points, 0.3)
    linear = kernel(points, rng.normal(size=(50, 3)), 0.3).mean(axis=1)
    found = simplex_weights(matrix, linear)
    best = scipy.optimize.minimize(
        lambda b: b @ matrix @ b / 2 - linear @ b,
        np.full(12, 1 / 12),
        jac=lambda b: matrix @ b - linear,
        bounds=[(0, 1)] * 12,
        constraints={"type": "eq", "fun": lambda b: b.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.sum() == pytest.approx(1.0)
    assert found.min() >= 0
    np.testing.assert_allclose(found, best.x, atol=1e-5)


def gap(rows, offer):
    """Squared discrepancy of a specification to all rows, up to a constant."""
    inner = offer.weights @ kernel(offer.points, offer.points, offer.gamma) @ offer.weights
    return inner - 2 * offer.weights @ kernel(offer.points, rows, offer.gamma).mean(axis=1)


def test_a_specification_is_nearer_to_its_data_than_cluster_centres_are():
    from sklearn.cluster import KMeans

    rows = np.random.default_rng(0).normal(size=(400, 2))
    offer = specify(rows, points=12, gamma=0.5)
    centres = KMeans(12, n_init=1, random_state=0).fit(rows).cluster_centers_
    matrix, cross = kernel(centres, centres, 0.5), kernel(centres, rows, 0.5).mean(axis=1)
    assert gap(rows, offer) < gap(rows, Rkme(centres, simplex_weights(matrix, cross), 0.5))


def test_few_rows_are_their_own_specification():
    rows = np.random.default_rng(0).normal(size=(20, 2))
    offer = specify(rows)
    np.testing.assert_array_equal(offer.points, rows)
    assert discrepancy(offer, offer) == 0.0


def test_the_search_finds_the_data_a_user_is_like():
    rng = np.random.default_rng(0)
    centres = {"left": -2.0, "middle": 0.0, "right": 2.0}
    offers = {
        name: specify(rng.normal(size=(300, 3)) + centre, points=20)
        for name, centre in centres.items()
    }
    found = search(rng.normal(size=(200, 3)) + 1.8, offers)
    assert [name for name, _ in found] == ["right", "middle", "left"]


def test_rkme_score_prefers_like_data():
    evidence = world(rows=240)
    near = replace(evidence.source, features=evidence.features[:120], targets=None)
    far = replace(near, features=near.features + 4)
    first, second = (
        compute(["rkme"], replace(evidence, source=source))["rkme"].value for source in (near, far)
    )
    assert second < first <= 0


def test_specifications_that_cannot_be_compared(tmp_path):
    rng = np.random.default_rng(0)
    first = specify(rng.normal(size=(10, 2)))
    np.savez(tmp_path / "offer.npz", **first.state())
    with np.load(tmp_path / "offer.npz") as state:
        again = Rkme(state["points"], state["weights"], float(state["gamma"]))
    assert discrepancy(first, again) == 0.0
    with pytest.raises(ScoreError, match=r"gamma 0\.1 and 0\.2"):
        discrepancy(first, specify(rng.normal(size=(10, 2)), gamma=0.2))
    with pytest.raises(ScoreError, match="no point is near any row"):
        specify(rng.normal(size=(200, 50)) * 100, points=5)
