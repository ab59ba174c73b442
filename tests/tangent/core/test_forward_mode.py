"""What forward mode cannot do is found before training; what has an equivalent is replaced."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stockpot.errors import BackboneError
from stockpot.tangent import TangentModel, forward_mode
from tests.tangent.core.tiny import differences, random_delta


class Sequences(nn.Module):
    """A layer on sequences (N, 4, 8), then the mean and a head."""

    def __init__(self, layer: nn.Module, call: Any = None) -> None:
        super().__init__()
        self.layer = layer
        self.call = call or (lambda layer, values: layer(values))
        self.head = nn.Linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.call(self.layer, values).mean(1))


class Attention(nn.Module):
    """Scaled-dot-product attention as transformers and timm call it."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.qkv, self.options = nn.Linear(8, 24), options

    def forward(self, values: Tensor) -> Tensor:
        q, k, v = self.qkv(values).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return (
            functional.scaled_dot_product_attention(q, k, v, **self.options)
            .transpose(1, 2)
            .flatten(2)
        )


class NoForward(torch.autograd.Function):
    """A function that knows its backward only."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, values: Tensor) -> Tensor:
        return NoForward.apply(self.linear(values))


class Distances(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(8, 8))

    def forward(self, values: Tensor) -> Tensor:
        return torch.cdist(values, self.centres)


def first(layer: nn.Module, values: Tensor) -> Tensor:
    return layer(values)[0]


def to_itself(layer: nn.Module, values: Tensor) -> Tensor:
    return layer(values, values, values, need_weights=False)[0]


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, **options)


WORK = {
    "attention": (Attention, None, True),
    "causal attention": (lambda: Attention(is_causal=True), None, True),
    "multi-head attention": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        to_itself,
        True,
    ),
    "encoder layer": (encoder, None, True),
    "encoder": (
        lambda: nn.TransformerEncoder(encoder(), 2, enable_nested_tensor=False),
        None,
        True,
    ),
    "norm first": (lambda: encoder(norm_first=True), None, True),
    "lstm": (lambda: nn.LSTM(8, 8, batch_first=True), first, True),
    "gru": (lambda: nn.GRU(8, 8, batch_first=True), first, False),
    "layer norm": (lambda: nn.LayerNorm(8), None, False),
    "dropout": (lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), None, False),
    "batch norm": (lambda: nn.BatchNorm1d(4), None, False),
    "hardsigmoid": (lambda: nn.Sequential(nn.Linear(8, 8), nn.Hardsigmoid()), None, True),
    "in place": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True)), None, False),
}


@pytest.mark.parametrize("name", WORK)
def test_layers_work_as_they_are_or_by_another_kernel(name, caplog) -> None:
    make, call, replaced = WORK[name]
    forward_mode.say.cache_clear()
    torch.manual_seed(0)
    network = Sequences(make(), call)
    inputs = torch.randn(3, 4, 8)
    model = TangentModel(network)
    delta = random_delta(model)
    with caplog.at_level(logging.WARNING, "stockpot"):
        outputs, change = model.terms(inputs, delta)
    fast = torch.backends.mha.get_fastpath_enabled()
    truth = differences(network, inputs, delta)
    assert torch.allclose(outputs.double(), truth[0], atol=1e-5)
    assert torch.allclose(change.double(), truth[1], atol=1e-5, rtol=1e-4)
    assert bool(model.notes) == replaced
    assert len(caplog.records) == len(model.notes)
    assert fast, "global switches are as before"


@pytest.mark.parametrize(
    ("make", "where", "operator", "advice"),
    [
        (Custom, "layer", "", "jvp"),
        (Distances, "layer", "cdist", "square"),
    ],
)
def test_what_cannot_be_done_is_named(make, where, operator, advice) -> None:
    model = TangentModel(Sequences(make()))
    with pytest.raises(BackboneError) as caught:
        model.probe(torch.randn(3, 4, 8))
    text = str(caught.value)
    for part in (f"'{where}'", make.__name__, operator, advice):
        assert part in text, text
