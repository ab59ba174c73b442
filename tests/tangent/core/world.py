"""A folder with a recipe, data and a base that trains in a second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

NET = """\
import torch
from torch import nn


def net():
    generator = torch.Generator().manual_seed(7)
    layers = nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 12), nn.Tanh())
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    layers.feature_dim, layers.input_shape = 12, (5,)
    return layers
"""


def write_world(
    folder: Path, rows: int = 240, names: Sequence[str] = ("east", "north", "south"), **changes: Any
) -> Path:
    """Four classes in three domains; returns the path of the recipe."""
    rng = np.random.default_rng(0)
    labels, domains = rng.integers(0, 4, rows), rng.integers(0, 3, rows)
    inputs = rng.normal(size=(rows, 5)).astype(np.float32) * 0.6
    inputs[np.arange(rows), labels] += 2
    kinds = np.array(names)[domains]
    np.savez(folder / "data.npz", inputs=inputs, labels=labels, domains=kinds)
    (folder / "net.py").write_text(NET)
    recipe = {
        "task": {"kind": "arrays", "path": "data.npz"},
        "backbone": {"kind": "function", "name": "net.py:net"},
        "training": {"epochs": 15, "learning_rate": 0.01, "batch_size": 16},
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path
