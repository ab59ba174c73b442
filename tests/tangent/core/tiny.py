"""Small linearised models and components for tests of the tangent room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stockpot.tangent import Component, TangentModel
from tests.backbones.networks import cnn


class Network(nn.Module):
    """A small convolutional network with BatchNorm and a head: (N, 3, H, W) -> (N, C)."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.features = cnn()
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.head = nn.Linear(6, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def images(count: int = 5, seed: int = 0, size: int = 8) -> Tensor:
    """Normal noise (N, 3, size, size)."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def random_delta(model: TangentModel, seed: int = 0, scale: float = 0.1) -> dict[str, Tensor]:
    """A delta of normal numbers for every tangent."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.zeros().items()
    }


def component(model: TangentModel, task: str, seed: int = 0, **changes: Any) -> Component:
    """A component with a random delta."""
    about: dict[str, Any] = {
        "kind": "delta",
        "base_digest": model.base_digest,
        "head_digest": model.head_digest,
        "task": task,
        "classes": (f"class-{seed}", f"class-{seed + 1}"),
        "examples": 10 + seed,
        "data_fingerprint": f"data-{seed}",
        "tensors": random_delta(model, seed),
        "seed": seed,
        "settings": {"steps": 3},
        "metrics": {"loss": 0.5},
    }
    return Component(**{**about, **changes})


def differences(
    module: nn.Module, inputs: Any, delta: Mapping[str, Tensor], step: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """f(x) and J f . delta by central differences in float64, from the module alone."""
    import copy

    exact = copy.deepcopy(module).double().eval()
    base = {name: p.detach().clone() for name, p in exact.named_parameters()}

    def at(amount: float) -> Tensor:
        with torch.no_grad():
            for name, parameter in exact.named_parameters():
                moved = base[name]
                if name in delta:
                    moved = moved + amount * delta[name].double()
                parameter.copy_(moved)
            output = exact(inputs) if isinstance(inputs, Tensor) else exact(**inputs)
            return output if isinstance(output, Tensor) else output.logits

    if isinstance(inputs, Tensor):
        inputs = inputs.double()
    else:
        inputs = {n: t.double() if t.is_floating_point() else t for n, t in inputs.items()}
    return at(0.0), (at(step) - at(-step)) / (2 * step)
