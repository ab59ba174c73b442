"""Interpolation coefficients as trainable numbers: a model whose weights are a base plus task
vectors.

Imports torch; imported only by the functions that learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stockpot.checkpoints import write_checkpoint
from stockpot.errors import InputError

Predict = Callable[[nn.Module, Any, int], Tensor]
"""``(model, batch, task number) -> outputs``."""


@dataclass(frozen=True)
class LearnedCoefficients:
    """Coefficients found by learning.

    Attributes:
        coefficients: for each tensor, one number a model.
        losses: the loss before each step.
    """

    coefficients: dict[str, list[float]]
    losses: list[float]

    def save(self, folder: Path) -> list[Path]:
        """Write one file a model, for ``merge(..., method="adamerging")``; their paths in order."""
        count = len(next(iter(self.coefficients.values())))
        paths = []
        for model in range(count):
            path = Path(folder) / f"coefficients-{model}.safetensors"
            numbers = {
                name: np.array(values[model], dtype=np.float32)
                for name, values in self.coefficients.items()
            }
            write_checkpoint(path, numbers)
            paths.append(path)
        return paths


class Mixture:
    """``theta_0 + sum_i c_i tau_i`` run through ``module``, differentiable in c.

    Args:
        module: the architecture; its own weights play no part, buffers are its own.
        base, models: states with the names of the module's parameters; only those are mixed.
    """

    def __init__(
        self,
        module: nn.Module,
        base: Mapping[str, Tensor],
        models: Sequence[Mapping[str, Tensor]],
    ) -> None:
        parameters = dict(module.named_parameters())
        self.names = [name for name in parameters if name in base]
        if not self.names or not models:
            raise InputError(
                "the base and the module have no parameter name in common"
                if models
                else "there are no models to mix",
                hint="give states whose names are those of module.named_parameters()",
            )
        for number, model in enumerate(models):
            for name in self.names:
                if name not in model or model[name].shape != base[name].shape:
                    raise InputError(
                        f"model {number + 1} lacks tensor '{name}' in the base's shape",
                        hint="all models must have the base's architecture",
                    )
        self.module = module
        self.base = {
            name: base[name].detach().to(parameters[name].device, torch.float32)
            for name in self.names
        }
        self.deltas = [
            {
                name: model[name].detach().to(self.base[name]) - self.base[name]
                for name in self.names
            }
            for model in models
        ]

    def weights(self, coefficients: Tensor) -> dict[str, Tensor]:
        """Weights for ``coefficients`` of shape (models,) or (tensors, models)."""
        table = coefficients.expand(len(self.names), len(self.deltas))
        mixed = {}
        for row, name in enumerate(self.names):
            total = self.base[name]
            for column, delta in enumerate(self.deltas):
                total = total + table[row, column] * delta[name]
            mixed[name] = total
        return mixed

    def run(self, coefficients: Tensor, predict: Predict, batch: Any, task: int) -> Tensor:
        """Outputs of the mixed model for a batch of one task."""

        class Mixed(nn.Module):
            def __init__(self, module: nn.Module) -> None:
                super().__init__()
                self.module = module

            def forward(self, batch: Any, task: int) -> Tensor:
                return predict(self.module, batch, task)

        named = {f"module.{name}": value for name, value in self.weights(coefficients).items()}
        outputs: Tensor = torch.func.functional_call(Mixed(self.module), named, (batch, task))
        return outputs


def plain_predict(module: nn.Module, batch: Any, task: int) -> Tensor:
    """``module(batch)``, whatever the task."""
    outputs: Tensor = module(batch)
    return outputs


def round_trip(batches: Sequence[Iterable[Any]]) -> Iterator[list[Any]]:
    """One batch of every task at a time, each task's batches over and over again."""
    iterators = [iter(each) for each in batches]
    while True:
        row = []
        for task, iterable in enumerate(batches):
            batch = next(iterators[task], None)
            if batch is None:
                iterators[task] = iter(iterable)
                batch = next(iterators[task], None)
            if batch is None:
                raise InputError(f"task {task} has no batches", hint="give re-iterable batches")
            row.append(batch)
        yield row


@contextmanager
def evaluation_of(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode for a while."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def learn(
    mixture: Mixture,
    start: Tensor,
    as_coefficients: Callable[[Tensor], Tensor],
    loss_of: Callable[[Tensor, list[Any]], Tensor],
    batches: Sequence[Iterable[Any]],
    *,
    steps: int,
    rate: float,
    optimizer: Literal["adam", "sgd"],
) -> LearnedCoefficients:
    """Lower ``loss_of(coefficients, one batch a task)`` by ``steps`` of the optimizer.

    ``as_coefficients`` maps what is learnt to coefficients. The module is in evaluation mode
    meanwhile.
    """
    unknown = start.clone().requires_grad_(True)
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    engine = kinds[optimizer]([unknown], lr=rate)
    losses: list[float] = []
    with evaluation_of(mixture.module):
        for _, row in zip(range(steps), round_trip(batches), strict=False):
            engine.zero_grad()
            loss = loss_of(as_coefficients(unknown), row)
            loss.backward()  # type: ignore[no-untyped-call]
            engine.step()
            losses.append(float(loss.detach()))
    table = as_coefficients(unknown.detach()).expand(len(mixture.names), len(mixture.deltas))
    return LearnedCoefficients(dict(zip(mixture.names, table.tolist(), strict=True)), losses)
