"""Composition of deltas keeps the composers' contract, and is linear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stockpot.errors import InputError
from stockpot.tangent import AverageComposer, Component, TangentModel
from stockpot.tangent.testing import CHECKS, ComposerCase
from tests.tangent.core.tiny import Network, component, differences, images


def make_subject() -> ComposerCase:
    network = Network()
    model = TangentModel(network)
    inputs = images()

    def truth(components: Sequence[Component], weights: Sequence[float]) -> Tensor:
        names = components[0].tensors
        total = {
            n: sum(w * c.tensors[n].double() for c, w in zip(components, weights, strict=True))
            for n in names
        }
        native, change = differences(network, inputs, total)
        return native + change

    components = [component(model, f"site-{seed}", seed) for seed in range(4)]
    return ComposerCase(AverageComposer(model), components, inputs, truth)


SUBJECT = make_subject()


@pytest.fixture
def subject() -> ComposerCase:
    return SUBJECT


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, subject: ComposerCase) -> None:
    check(subject)


def test_subtracting_what_was_added_leaves_nothing(subject: ComposerCase) -> None:
    """compose(a, b) - b equals a, to 1e-6 in outputs even where b is taken off as a third term."""
    a, b, *_ = subject.components
    minus = replace(b, task="minus b")
    alone = subject.composer.compose([a], [1.0]).predict(subject.inputs)
    taken = subject.composer.compose([a, b, minus], [1.0, 1.0, -1.0]).predict(subject.inputs)
    assert float((taken - alone).abs().max() / alone.abs().max()) < 1e-6
    exact = subject.composer.compose([a, b], "sum").without(b.task)
    assert torch.equal(exact.predict(subject.inputs), alone)


def test_outputs_are_the_mean_of_outputs(subject: ComposerCase) -> None:
    each = [
        subject.composer.compose([c], [1.0]).predict(subject.inputs) for c in subject.components
    ]
    composed = subject.composer.compose(subject.components)
    assert composed.classes == ("class-0", "class-1", "class-2", "class-3", "class-4")
    mean = torch.stack(each).double().mean(0)
    assert torch.allclose(composed.predict(subject.inputs).double(), mean, atol=1e-5)


def test_what_cannot_be_taken_away_is_told(subject: ComposerCase) -> None:
    composer, components = subject.composer, subject.components
    composed = composer.compose(components)
    with pytest.raises(InputError, match="no component 'nobody'"):
        composed.without("nobody")
    twins = composer.compose([components[0], replace(components[0], seed=5)])
    with pytest.raises(InputError, match="2 components 'site-0'"):
        twins.without("site-0")
    with pytest.raises(InputError, match="partial sums"):
        composer.finish([composer.partial(components)]).without("site-0")
    with pytest.raises(InputError, match="no partial sums"):
        composer.finish([])
    with pytest.raises(InputError, match="unknown weights 'best'"):
        composer.compose(components, "best")  # type: ignore[arg-type]
    narrow = AverageComposer(TangentModel(Network(), parameters=["head.*"]))
    with pytest.raises(InputError, match="has no tangent here"):
        narrow.compose(components)


def test_shapes_that_differ_are_told() -> None:
    from stockpot.tangent.composer import weighted_sum

    with pytest.raises(InputError, match=r"shape \(3,\)"):
        weighted_sum([{"w": torch.zeros(2)}, {"w": torch.zeros(3)}], [1.0, 1.0])
    found = weighted_sum([{"a": torch.ones(1)}, {"b": torch.ones(1)}], [2.0, 3.0])
    assert {name: float(value) for name, value in found.items()} == {"a": 2.0, "b": 3.0}


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations(range(4)),
    weights=st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=4, max_size=4),
    cut=st.integers(1, 3),
)
def test_any_order_and_grouping(order: list[int], weights: list[float], cut: int) -> None:
    """Whatever the weights: no byte depends on the order, sums of sums agree to rounding."""
    composer, components = SUBJECT.composer, SUBJECT.components
    first = composer.partial(components, weights)
    turned = composer.partial([components[i] for i in order], [weights[i] for i in order])
    assert first.terms == turned.terms
    for name in first.sums:
        assert torch.equal(first.sums[name], turned.sums[name])
    parts = [order[:cut], order[cut:]]
    halves = [
        composer.partial([components[i] for i in part], [weights[i] for i in part])
        for part in parts
    ]
    joined = composer.finish(halves)
    scale = max(map(abs, weights)) or 1.0
    for name, tensor in joined.state().items():
        gap = (tensor.double() - first.sums[name]).abs().max()
        assert float(gap) <= 1e-6 * scale + 1e-40  # below which float32 has nothing
    assert joined.terms == first.terms
