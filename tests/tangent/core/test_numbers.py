"""Learnt weights, modes of evaluation, aggregation on a server."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stockpot.errors import BaseMismatchError, InputError
from stockpot.tangent import AverageComposer, TangentModel
from stockpot.tangent.feeds import TensorFeed
from stockpot.tangent.learning import fit_weights, learn_weights
from stockpot.tangent.modes import accuracy_among, class_numbers, own_task, restrict
from stockpot.tangent.summing import aggregate, from_arrays, to_arrays
from tests.tangent.core.tiny import Network, component, images


@pytest.fixture(scope="module")
def model() -> TangentModel:
    return TangentModel(Network())


@pytest.fixture(scope="module")
def components(model):
    return [component(model, f"site-{seed}", seed) for seed in range(3)]


def test_exact_weights_are_found_again() -> None:
    rng = np.random.default_rng(0)
    terms = rng.normal(size=(3, 200, 4))
    truth = np.array([0.7, -0.2, 0.4])
    found = fit_weights(terms, np.tensordot(truth, terms, 1))
    assert found.weights == pytest.approx(truth, abs=1e-6)
    assert found.pull < 1e-2


def test_noise_gives_the_uniform_mean() -> None:
    rng = np.random.default_rng(1)
    terms = rng.normal(size=(4, 30, 3))
    uniform = terms.mean(0) + 3 * rng.normal(size=(30, 3))
    found = fit_weights(terms, uniform)
    assert found.pull >= 1
    assert found.weights == pytest.approx([0.25] * 4, abs=0.15)


def test_equal_components_share_the_weight() -> None:
    term = np.random.default_rng(2).normal(size=(50, 3))
    found = fit_weights(np.stack([term, term]), 2 * term)
    assert found.weights == pytest.approx([1.0, 1.0], rel=1e-3)


def test_learnt_weights_beat_the_mean_on_what_they_saw(model, components) -> None:
    feed = TensorFeed(images(60))
    target = AverageComposer(model).compose(components, [0.8, 0.1, 0.1])
    labels = target.predict(images(60)).argmax(1).numpy()
    found = learn_weights(model, components, feed, labels, np.arange(60), kappa=0.3)
    again = learn_weights(model, components, feed, labels, np.arange(60), kappa=0.3)
    assert found == again
    assert min(found.losses.values()) <= found.losses[float("inf")]
    with pytest.raises(InputError, match="too few"):
        learn_weights(model, components, feed, labels, np.arange(9))


def test_aggregation_has_the_bytes_of_composition(model, components) -> None:
    for rule in ("uniform", "examples", [0.5, -1.0, 2.0]):
        composed = AverageComposer(model).compose(components, rule)
        summed = aggregate(components, rule)
        assert sorted(summed.tensors) == sorted(composed.state())
        for name, tensor in composed.state().items():
            assert torch.equal(summed.tensors[name], tensor)
        again = AverageComposer(model).compose([summed], [1.0])
        assert torch.equal(again.predict(images()), composed.predict(images()))
    back = aggregate(components[::-1], "examples")
    assert back.digest == aggregate(components, "examples").digest
    weights = {term["task"]: term["weight"] for term in back.settings["composed"]}
    assert weights == {"site-0": 10 / 33, "site-1": 11 / 33, "site-2": 12 / 33}
    assert back.examples == 33
    assert back.classes == ("class-0", "class-1", "class-2", "class-3")


def test_a_server_refuses_what_does_not_belong(components) -> None:
    with pytest.raises(InputError, match="no components"):
        aggregate([])
    with pytest.raises(InputError, match="twice"):
        aggregate([components[0], components[0]])
    with pytest.raises(BaseMismatchError):
        aggregate([components[0], replace(components[1], base_digest="0")])
    with pytest.raises(InputError, match="statistics"):
        aggregate([components[0], replace(components[1], kind="statistics")])
    with pytest.raises(InputError, match="2 weights for 3"):
        aggregate(components, [1.0, 2.0])
    with pytest.raises(InputError, match="finite"):
        aggregate(components, [1.0, 2.0, float("nan")])
    empty = [replace(component, examples=0) for component in components]
    with pytest.raises(InputError, match="any examples"):
        aggregate(empty, "examples")


def test_a_component_survives_the_wire(components) -> None:
    arrays, about = to_arrays(components[0])
    assert from_arrays(arrays, about).digest == components[0].digest
    changed = [arrays[0] + 1, *arrays[1:]]
    with pytest.raises(InputError, match="changed on the way"):
        from_arrays(changed, about)
    for broken in ({**about, "names": about["names"][1:]}, {"names": []}, {**about, "x": 1}):
        with pytest.raises(InputError, match="no component"):
            from_arrays(arrays, broken)


def test_answers_are_restricted_to_the_mode() -> None:
    outputs = np.array([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 9.0, 2.0]])
    labels = np.array([0, 2, 0])
    assert accuracy_among(outputs, labels, np.arange(4)) == pytest.approx(1 / 3)
    assert accuracy_among(outputs, labels, np.array([0, 2])) == pytest.approx(2 / 3)
    tasks = own_task(labels, [[0, 1], [2, 3]], 4)
    assert tasks.tolist() == [
        [True, True, False, False],
        [False, False, True, True],
        tasks[0].tolist(),
    ]
    assert accuracy_among(outputs, labels, tasks) == pytest.approx(2 / 3)
    assert class_numbers(("c", "a"), ("a", "b", "c")).tolist() == [0, 2]
    with pytest.raises(InputError, match="no class 'x'"):
        class_numbers(("x",), ("a",))
    with pytest.raises(InputError, match="two tasks"):
        own_task(labels, [[0, 1], [1, 2]], 4)
    with pytest.raises(InputError, match="no task"):
        own_task(np.array([3]), [[0, 1]], 4)
    with pytest.raises(InputError, match="no class at all"):
        restrict(outputs, np.array([], dtype=np.int64))
    with pytest.raises(InputError, match="no example"):
        accuracy_among(outputs[:0], labels[:0], np.arange(4))
