"""The check of a linearisation finds a wrong derivative, and real weights pass it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stockpot.backbones import BackboneSpec, Model, load_backbone
from stockpot.tangent import AverageComposer, TangentModel
from stockpot.tangent.checks import check_linearisation
from stockpot.tangent.head import draw_head
from tests.tangent.core.tiny import Network, component, images, random_delta
from tests.weights import weights


class Wrong(torch.autograd.Function):
    """x squared, whose forward-mode rule forgets a factor of two."""

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.square()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return ctx.saved_tensors[0] * tangent

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


class Squares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(Wrong.apply(self.first(values)))


@pytest.mark.parametrize("from_block", [None, "features.blocks.1"])
def test_a_right_derivative_passes(from_block) -> None:
    model = TangentModel(Network(), from_block=from_block)
    found = check_linearisation(model, images())
    assert found.error < 1e-7
    assert found.rounding < 1e-4
    assert found.curvature < 0.1
    larger = check_linearisation(model, images(), random_delta(model, scale=0.5))
    assert larger.curvature > found.curvature


def test_a_wrong_derivative_is_found() -> None:
    model = TangentModel(Squares())
    assert check_linearisation(model, torch.randn(3, 4)).error > 0.1


@pytest.mark.weights
def test_minilm() -> None:
    folder = weights("minilm")
    body = load_backbone(
        BackboneSpec(kind="transformers", name=str(folder), freeze_below="encoder.layer.5")
    )
    network = Model(body, 4)
    draw_head(network)
    model = TangentModel(network)
    batch = body.prepare(["a short text", "one that is a little longer than that", "third"])
    found = check_linearisation(model, batch)
    assert found.error < 1e-7
    assert found.rounding < 1e-4
    parts = [
        component(model, f"part-{seed}", seed, tensors=random_delta(model, seed, 1e-3))
        for seed in (0, 1)
    ]
    composer = AverageComposer(model)
    both, one = composer.compose(parts, "sum"), composer.compose(parts[:1], "sum")
    assert torch.equal(both.without("part-1").predict(batch), one.predict(batch))
    taken = composer.compose(
        [*parts, component(model, "minus", 1, tensors=parts[1].tensors)], [1.0, 1.0, -1.0]
    )
    gap = (taken.predict(batch) - one.predict(batch)).abs().max() / one.predict(batch).abs().max()
    assert float(gap) < 1e-6
