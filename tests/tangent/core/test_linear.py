"""A linearised model is the derivative of its module: central differences and float64 agree."""

from __future__ import annotations

import pytest
import torch

from stockpot.tangent import TangentModel
from tests.tangent.core.tiny import Network, differences, images, random_delta


def relative(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found.double() - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize("from_block", [None, "features.blocks.1"])
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float64", 1e-8), ("float32", 2e-5), ("bfloat16", 0.05)]
)
def test_both_terms_agree_with_central_differences(from_block, precision, tolerance) -> None:
    network, inputs = Network(), images()
    model = TangentModel(network, from_block=from_block, precision=precision)
    delta = random_delta(model)
    native, change = differences(network, inputs, delta)
    one, two = model.terms(inputs, delta)
    assert relative(one, native) < tolerance
    assert relative(two, change) < tolerance
    assert torch.equal(model(inputs, delta), one + two)
    assert relative(model.native(inputs), native) < tolerance
