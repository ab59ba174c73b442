"""Small models of known quality on a small task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

CLASSES, INNER = 3, 6


def _task(seed: int = 0, n: int = 240) -> tuple[np.ndarray, np.ndarray]:
    """Classes are told apart by the first three of ten columns, the others are loud noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    inputs = rng.normal(size=(n, 10)) * 3
    inputs[:, :3] = rng.normal(size=(n, 3)) * 0.6 + 2 * np.eye(3)[labels]
    return inputs.astype(np.float32), labels


def write_task(folder: Path, *, seed: int = 0, domains: int = 2) -> Path:
    """``data.npz`` with arrays, and ``task.yaml`` that asks about it."""
    inputs, labels = _task(seed)
    names = np.array([f"d{i}" for i in range(domains)])[np.arange(len(labels)) // 3 % domains]
    np.savez(folder / "data.npz", inputs=inputs, labels=labels, domains=names)
    (folder / "task.yaml").write_text(
        "title: Tiny\n"
        "task: {kind: arrays, path: data.npz}\n"
        "sample: {first: 60, most: 120}\n"
        "training: {steps: 8, batch_size: 8, learning_rate: 0.01}\n"
    )
    return folder / "task.yaml"


def net(quality: float = 1.0, hidden: int = INNER) -> nn.Module:
    """Sees the three good columns with weight ``quality`` and noise with the rest."""
    generator = torch.Generator().manual_seed(int(quality * 100) + hidden)
    layer = nn.Linear(10, hidden)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(hidden, 10, generator=generator) * (1.0 - quality) / 3)
        layer.weight[:3, :3] += quality * torch.eye(3)
        layer.bias.zero_()
    module = nn.Sequential(layer, nn.Tanh())
    module.feature_dim = hidden  # type: ignore[assignment]
    module.input_shape = (10,)  # type: ignore[assignment]
    return module


def broken() -> nn.Module:
    """Cannot be built."""
    raise RuntimeError("the wheels came off")


class Untrainable(nn.Module):
    """Gives features, but training it fails."""

    feature_dim = INNER
    input_shape = (10,)

    def __init__(self) -> None:
        super().__init__()
        self.net = net(0.5)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise RuntimeError("not for training")
        return self.net(values)


def untrainable() -> nn.Module:
    """See ``Untrainable``."""
    return Untrainable()


QUALITY = {"good": 0.95, "fair": 0.6, "poor": 0.3, "noise": 0.0}


def zoo(**changes: Any) -> dict[str, Any]:
    """Four models of falling quality, and whatever ``changes`` adds."""
    models = [
        {
            "id": name,
            "kind": "function",
            "name": "tests.ranking.rank.tiny:net",
            "options": {"quality": quality},
            "metadata": {"family": "tiny", "parameters": 66.0},
        }
        for name, quality in QUALITY.items()
    ]
    for name, function in changes.items():
        models.append(
            {"id": name, "kind": "function", "name": f"tests.ranking.rank.tiny:{function}"}
        )
    return {"models": models}
