"""Small tasks and models for training tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from stockpot.backbones import Backbone, BackboneSpec, Model, load_backbone
from stockpot.tasks import Split, Task, build_task, split_task
from tests.backbones.networks import text_folder

NETWORKS = "tests.backbones.networks"
DOMAINS = ("north", "east", "south")


def array_task(kind: str = "classification", n: int = 90, seed: int = 0) -> Task:
    """Arrays (N, 5); the label is a function of two of them."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, 5)).astype(np.float32)
    score = inputs[:, 0] - 0.5 * inputs[:, 1]
    labels = (score > 0).astype(np.int64) if kind == "classification" else 100 + 30 * score
    return build_task(
        name="arrays",
        kind=kind,
        modality="array",
        domains=DOMAINS,
        classes=("no", "yes") if kind == "classification" else (),
        inputs=inputs,
        labels=labels,
        domain_ids=np.arange(n) % 3,
        fingerprint=f"arrays-{kind}-{seed}",
        where="test",
    )


def image_task(n: int = 36, size: int = 16) -> Task:
    """Images of two colours with noise."""
    rng = np.random.default_rng(1)
    labels = np.arange(n) // 3 % 2
    inputs = rng.integers(0, 120, (n, size, size, 3), dtype=np.uint8)
    inputs[labels == 1, :, :, 0] += 120
    return build_task(
        name="images",
        kind="classification",
        modality="image",
        domains=DOMAINS,
        classes=("dark", "red"),
        inputs=inputs,
        labels=labels,
        domain_ids=np.arange(n) % 3,
        fingerprint="images",
        where="test",
    )


def text_task(n: int = 48) -> Task:
    """Good and bad texts of one to nine words."""
    rng = np.random.default_rng(2)
    labels = np.arange(n) // 3 % 2
    texts = [
        " ".join([*rng.choice(list("abcdef"), int(rng.integers(0, 9))), ("bad", "good")[label]])
        for label in labels
    ]
    return build_task(
        name="texts",
        kind="classification",
        modality="text",
        domains=DOMAINS,
        classes=("bad", "good"),
        inputs=texts,
        labels=labels,
        domain_ids=np.arange(n) % 3,
        fingerprint="texts",
        where="test",
    )


def parts(task: Task) -> Split:
    """North and east train, south is held out."""
    return split_task(task, held_out=["south"], seed=0)


def linear_backbone() -> Backbone:
    """Arrays (N, 5) -> (N, 3), everything trained."""
    return load_backbone(BackboneSpec(kind="function", name=f"{NETWORKS}:linear"))


def cnn_backbone(below: str | None = "blocks.1", **changes: Any) -> Backbone:
    """A tiny CNN for images of 16 pixels."""
    return load_backbone(
        BackboneSpec(
            kind="function",
            name=f"{NETWORKS}:cnn",
            image_size=16,
            freeze_below=below,
            **changes,
        )
    )


def text_backbone(folder: Path, below: str | None = "encoder.layer.2") -> Backbone:
    """A tiny BERT of three layers."""
    if not folder.exists():
        text_folder(folder)
    return load_backbone(
        BackboneSpec(kind="transformers", name=str(folder), freeze_below=below, max_length=12)
    )


def without_dropout(backbone: Backbone) -> None:
    """Make a tiny BERT the same in training as in use."""
    for module in backbone.network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0


def linear_model(task: Task, dropout: float = 0.0) -> Model:
    """The linear backbone with a head that is not zero."""
    outputs = len(task.classes) or 1
    model = Model(linear_backbone(), outputs, dropout)
    rng = np.random.default_rng(3)
    model.set_head(rng.normal(size=(outputs, 3)).astype(np.float32), np.zeros(outputs, np.float32))
    return model
