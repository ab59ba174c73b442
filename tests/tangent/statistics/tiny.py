"""A small base, rows of numbers in five classes, and statistics of three shards."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from stockpot.backbones import Backbone, BackboneSpec, load_backbone
from stockpot.tangent.feeds import TensorFeed
from stockpot.tangent.statistics import FeatureMap, StatisticsComposer
from stockpot.tasks import named_generator

CLASSES = ("ant", "bee", "cat", "dog", "eel")
ROWS = 180


@functools.cache
def backbone() -> Backbone:
    spec = BackboneSpec(kind="function", name="tests.recycling.tiny:net")
    return load_backbone(spec)


@dataclass(frozen=True)
class Data:
    feed: TensorFeed
    inputs: np.ndarray
    labels: np.ndarray


@functools.cache
def data(rows: int = ROWS, seed: int = 0) -> Data:
    """Five overlapping clusters in six dimensions."""
    import torch

    generator = named_generator(seed, "tiny statistics")
    labels = generator.integers(len(CLASSES), size=rows)
    centres = named_generator(3, "centres").standard_normal((len(CLASSES), 6)) * 1.5
    inputs = (centres[labels] + generator.standard_normal((rows, 6))).astype(np.float32)
    return Data(TensorFeed(torch.from_numpy(inputs)), inputs, labels)


def composer(kind: str = "tangent", **more: object) -> StatisticsComposer:
    features = FeatureMap(kind, dimension=64, directions=3, random_dimension=64)  # type: ignore[arg-type]
    return StatisticsComposer(backbone(), features, CLASSES, device="cpu", **more)  # type: ignore[arg-type]
