"""A task and a backbone that train in a fraction of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

DOMAINS = ("north", "east", "south")
DIMENSIONS = 6


def net() -> nn.Module:
    """A small network with fixed 'pretrained' weights."""
    generator = torch.Generator().manual_seed(7)
    layers = nn.Sequential(nn.Linear(DIMENSIONS, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh())
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    layers.feature_dim = 12  # type: ignore[assignment]
    layers.input_shape = (DIMENSIONS,)  # type: ignore[assignment]
    return layers


def net_with_batchnorm() -> nn.Module:
    """The same with a BatchNorm layer after the first."""
    first, *rest = net()
    layers = nn.Sequential(first, nn.BatchNorm1d(16), *rest)
    layers.feature_dim = 12  # type: ignore[assignment]
    layers.input_shape = (DIMENSIONS,)  # type: ignore[assignment]
    return layers


def image_net() -> nn.Module:
    """Two small convolutions on 16-pixel images; fixed weights."""
    generator = torch.Generator().manual_seed(9)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    with torch.no_grad():
        for parameter in layers.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        layers[0].bias.zero_()
        layers[3].bias.zero_()
    layers.feature_dim = 8  # type: ignore[assignment]
    layers.input_shape = (3, 16, 16)  # type: ignore[assignment]
    return layers


def fresh_net() -> nn.Module:
    """Other weights at every call: no base that runs could share."""
    layers = net()
    with torch.no_grad():
        layers[0].weight.normal_()
    return layers


def write_images(folder: Path, *, per_class: int = 10) -> Path:
    """Two classes (bright at the top, bright on the left) in three tints."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for tint, domain in enumerate(DOMAINS):
        for name in ("left", "top"):
            place = folder / domain / name
            place.mkdir(parents=True)
            for index in range(per_class):
                image = rng.integers(0, 90, (16, 16, 3))
                part = image[:, :8] if name == "left" else image[:8]
                part[..., tint] += 150
                Image.fromarray(image.astype(np.uint8)).save(place / f"{index}.png")
    return folder


def write_arrays(path: Path, *, seed: int = 0, per_domain: int = 60, classes: int = 3) -> Path:
    """Three rotated copies of one problem: inputs, labels, domains."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, DIMENSIONS)) * 1.5
    inputs, labels, domains = [], [], []
    for index, domain in enumerate(DOMAINS):
        turn, _ = np.linalg.qr(
            np.eye(DIMENSIONS) + 0.3 * index * rng.normal(size=(DIMENSIONS,) * 2)
        )
        own = np.arange(per_domain) % classes
        noise = rng.normal(size=(per_domain, DIMENSIONS))
        inputs.append(((centres[own] + noise) @ turn).astype(np.float32))
        labels.append(own)
        domains += [domain] * per_domain
    np.savez(
        path,
        inputs=np.concatenate(inputs),
        labels=np.concatenate(labels).astype(np.int64),
        domains=np.array(domains),
    )
    return path


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """A whole recipe on data written into ``folder``."""
    write_arrays(folder / "target.npz")
    write_arrays(folder / "other.npz", seed=1, classes=4)
    value: dict[str, Any] = {
        "title": "Tiny",
        "task": {"kind": "arrays", "path": "target.npz"},
        "held_out": ["south"],
        "backbone": {"kind": "function", "name": "tests.recycling.tiny:net"},
        "training": {
            "steps": 12,
            "batch_size": 8,
            "learning_rate": [0.01, 0.003],
            "dropout": [0.0, 0.1],
            "weight_decay": 0.0,
            "head_only_steps": 2,
            "evaluate_every": 4,
            "augmentation": False,
        },
        "auxiliaries": [{"name": "other", "task": {"kind": "arrays", "path": "other.npz"}}],
        "runs": 3,
        "trials": 1,
        "connectivity": {"points": 3, "examples": 20},
        "resamples": 200,
    }
    if "stock_periodic" in changes.get("protocols", ["stock_periodic"]):
        value["periodic"] = {"every": 4, "models": 2}
    value.update(changes)
    return value
