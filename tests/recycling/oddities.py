"""Backbones whose state is more than weights, each (N, 6) -> (N, 12) with fixed weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.recycling.tiny import DIMENSIONS


class RunningMean(nn.Module):
    """Subtracts a moving average, which it replaces (not writes) in training; counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, values: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.8 * self.mean + 0.2 * values.detach().mean(0)
            self.steps += 1
        return values - self.mean


class Hidden(nn.Module):
    """A moving average that no checkpoint holds, beside an infinite constant."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(16), persistent=False)
        mask = torch.full((4, 4), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        if self.training:
            self.scale.lerp_(1 + values.detach().abs().mean(0), 0.2)
        tokens = (values / self.scale).unflatten(1, (4, 4))
        return (torch.softmax(tokens @ tokens.mT + self.mask, -1) @ tokens).flatten(1)


class Restless(nn.Module):
    """Writes its buffers in evaluation mode as well."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int32), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        shifted = values - self.mean
        self.mean.lerp_(values.detach().mean(0), 0.3)
        self.calls.add_(1)
        return shifted


class Codebook(nn.Module):
    """Vector quantisation with a codebook that follows the data in training (EMA update)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randn(8, 16))
        self.register_buffer("counts", torch.zeros(8, dtype=torch.int64))

    def forward(self, values: Tensor) -> Tensor:
        nearest = torch.cdist(values.detach(), self.codes).argmin(1)
        if self.training:
            for code in nearest.unique():
                own = values.detach()[nearest == code]
                self.codes[code] = 0.7 * self.codes[code] + 0.3 * own.mean(0)
            self.counts += torch.bincount(nearest, minlength=8)
        return values + 0.5 * (self.codes[nearest] - values.detach())


class Recurrent(nn.Module):
    """A GRU over the 16 values in four steps."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 16, batch_first=True)

    def forward(self, values: Tensor) -> Tensor:
        return self.gru(values.unflatten(1, (4, 4)))[0][:, -1]


class Whitened(nn.Module):
    """InstanceNorm over four channels, with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)

    def forward(self, values: Tensor) -> Tensor:
        return self.norm(values.unflatten(1, (4, 4))).flatten(1)


def _network(middle: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        layers = nn.Sequential(
            nn.Linear(DIMENSIONS, 16), nn.Tanh(), middle(), nn.Linear(16, 12), nn.Tanh()
        )
    layers.feature_dim = 12  # type: ignore[assignment]
    layers.input_shape = (DIMENSIONS,)  # type: ignore[assignment]
    return layers


def instance_norm() -> nn.Module:
    return _network(Whitened)


def spectral_norm() -> nn.Module:
    return _network(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16)))


def old_spectral_norm() -> nn.Module:
    return _network(lambda: nn.utils.spectral_norm(nn.Linear(16, 16)))


def running_mean() -> nn.Module:
    return _network(RunningMean)


def hidden() -> nn.Module:
    return _network(Hidden)


def restless() -> nn.Module:
    return _network(Restless)


def codebook() -> nn.Module:
    return _network(Codebook)


def recurrent() -> nn.Module:
    return _network(Recurrent)


def batchnorm() -> nn.Module:
    return _network(lambda: nn.BatchNorm1d(16))


def plain_batchnorm() -> nn.Module:
    return _network(lambda: nn.BatchNorm1d(16, affine=False, momentum=None))


def layer_norm() -> nn.Module:
    return _network(lambda: nn.LayerNorm(16))


def deep() -> nn.Module:
    """Twenty linear layers: steps that are too large soon leave the range of float32."""
    with torch.random.fork_rng():
        torch.manual_seed(6)
        layers = nn.Sequential(nn.Linear(DIMENSIONS, 12), *(nn.Linear(12, 12) for _ in range(19)))
        for layer in layers:
            nn.init.orthogonal_(layer.weight)
    layers.feature_dim = 12  # type: ignore[assignment]
    layers.input_shape = (DIMENSIONS,)  # type: ignore[assignment]
    return layers
