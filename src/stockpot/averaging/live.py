"""An average of the weights of a module while it trains. Needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stockpot.errors import InputError
from stockpot.training.averaging import RunningMean

__all__ = ["ModuleAverage", "RunningMean"]


class ModuleAverage:
    """The average of a module's trained weights and floating buffers over the calls of ``add``.

    Frozen parameters and whole numbers stay the module's. Sums are float64 on the weights' device:
    8 bytes a weight.

    Args:
        module: is read only, but inside ``applied``.
        shape: "uniform", or "ema:0.999": an iterate weighs as much less than the next one; divided
            by the sum of the weights, as by ``ema_coefficients``.
    """

    def __init__(self, module: nn.Module, shape: str = "uniform") -> None:
        self.module = module
        self.mean = RunningMean(decay_of(shape))

    def add(self) -> None:
        """Take in the weights as they are now."""
        self.mean.add(self._tensors())

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """Inside, the module has the average for weights; after it, to the bit its own.

        Raises ``InputError`` where nothing was added.
        """
        averages = self.mean.mean()
        if not averages:
            raise InputError("there is no average yet", hint="call add after steps of training")
        own = {name: tensor.clone() for name, tensor in self._tensors().items()}
        try:
            self._write(averages)
            yield self.module
        finally:
            self._write(own)

    def dump(self) -> dict[str, Any]:
        """What ``load`` needs, as plain values and tensors."""
        return self.mean.dump()

    def load(self, value: Mapping[str, Any]) -> None:
        """Go on where ``dump`` was called. Raises ``InputError`` for another module's average."""
        tensors = self._tensors()
        if {n: t.shape for n, t in tensors.items()} != {
            n: t.shape for n, t in value["sums"].items()
        }:
            raise InputError("this average is of another module")
        device = next(iter(tensors.values())).device
        decay, self.mean = self.mean.decay, RunningMean.load(value, device)
        self.mean.decay = decay

    def _tensors(self) -> dict[str, Tensor]:
        trained = {n: p.detach() for n, p in self.module.named_parameters() if p.requires_grad}
        floats = {n: b for n, b in self.module.named_buffers() if b.is_floating_point()}
        return {**trained, **floats}

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self._tensors().items():
            tensor.copy_(values[name])


def decay_of(shape: str) -> float:
    """The decay of a shape that needs no iterate twice. Raises ``InputError`` for others."""
    kind, _, value = shape.partition(":")
    try:
        decay = 1.0 if shape == "uniform" else float(value) if kind == "ema" else -1.0
    except ValueError:
        decay = -1.0
    if not 0.0 <= decay < 1.0 and shape != "uniform":
        hint = "expected uniform or ema:DECAY; for other shapes average the run's checkpoints"
        raise InputError(f"shape: got '{shape}'", hint=hint)
    return decay
