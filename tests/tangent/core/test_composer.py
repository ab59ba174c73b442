"""Composition of deltas keeps the composers' contract, and is linear."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from torch import Tensor

from stockpot.tangent import AverageComposer, Component, TangentModel
from stockpot.tangent.testing import CHECKS, Subject
from tests.tangent.core.tiny import Network, component, differences, images


def make_subject() -> Subject:
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
    return Subject(AverageComposer(model), components, inputs, truth)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return make_subject()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, subject: Subject) -> None:
    check(subject)
