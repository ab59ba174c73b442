"""Rows of a task as model inputs: raw ones, or activations of frozen lower blocks kept on disk."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from stockpot.backbones.backbone import Backbone
from stockpot.backbones.cut import Activations
from stockpot.tasks import Task
from stockpot.training.augmentation import augment as augment_images
from stockpot.training.cache import ActivationCache, open_cache

_CPU = torch.device("cpu")
_PART = 16  # texts per forward pass on CPU, where padding costs more than small matrices


class Feed(Protocol):
    """What training and prediction draw from."""

    lengths: np.ndarray | None
    """Tokens of every row (int64), None for inputs that all have the same size."""

    def __len__(self) -> int: ...

    def batch(self, rows: np.ndarray, *, augment: np.random.Generator | None = None) -> Any:
        """What ``Model.forward`` takes for ``rows``; augmented where a generator is given."""
        ...

    def to(self, device: torch.device) -> None:
        """Hand out batches on ``device`` from now on."""
        ...


class RawFeed:
    """Inputs decoded or tokenised once and kept in memory; images augmented in batch as tensors."""

    def __init__(self, task: Task, backbone: Backbone, *, augmentation: bool) -> None:
        self.preparation = backbone.preparation
        self.encoded: Any = self.preparation.encode(task.inputs)
        self.augmentation = augmentation and task.modality == "image"
        self.lengths = (
            np.array([len(one) for one in self.encoded]) if task.modality == "text" else None
        )
        self.device = _CPU

    def __len__(self) -> int:
        return len(self.encoded)

    def to(self, device: torch.device) -> None:
        """On a GPU all images move there once: uint8, 50 kB each at 128 pixels."""
        if device.type != "cpu" and isinstance(self.encoded, np.ndarray):
            self.encoded = torch.from_numpy(np.array(self.encoded)).to(device)
        self.device = device

    def batch(self, rows: np.ndarray, *, augment: np.random.Generator | None = None) -> Any:
        """Prepared inputs of ``rows``."""
        transform = None
        if augment is not None and self.augmentation:
            transform = functools.partial(augment_images, generator=augment)
        return self.preparation.batch(self.encoded, np.asarray(rows), self.device, transform)


class CachedFeed:
    """Activations at the cut, computed once: a plain view of each row and some augmented ones."""

    def __init__(self, cache: ActivationCache) -> None:
        self.cache = cache
        self.lengths = cache.lengths
        self.device = _CPU
        self._resident: Tensor | None = None

    def __len__(self) -> int:
        return self.cache.rows

    def to(self, device: torch.device) -> None:
        """On a GPU with room for them, the activations move there once."""
        self.device = device
        if device.type == "cuda" and self._resident is None:
            free, _ = torch.cuda.mem_get_info(device)
            if self.cache.lengths is None and self.cache.values.nbytes < free // 3:
                self._resident = torch.from_numpy(np.array(self.cache.values)).to(device)

    def batch(self, rows: np.ndarray, *, augment: np.random.Generator | None = None) -> Activations:
        """Activations of ``rows`` in float32; with ``augment`` a random augmented view of each."""
        rows = np.asarray(rows)
        if self.cache.lengths is not None:
            values, mask = self.cache.ragged(rows)
            return Activations(
                torch.from_numpy(values).to(self.device), torch.from_numpy(mask).to(self.device)
            )
        views = np.zeros(len(rows), dtype=np.int64)
        if augment is not None and self.cache.views:
            views = augment.integers(1, self.cache.views + 1, len(rows))
        if self._resident is not None:
            where = torch.from_numpy(views * self.cache.rows + rows).to(self.device)
            taken = self._resident.flatten(0, 1)[where].float()
        else:
            taken = torch.from_numpy(self.cache.values[views, rows]).to(self.device).float()
        if taken.ndim == 4:  # kept as (N, H, W, C): the memory order that convolutions like
            taken = taken.permute(0, 3, 1, 2)
        return Activations(taken)


def parts_by_length(feed: Feed, rows: np.ndarray, device: torch.device) -> list[np.ndarray]:
    """Texts of a step by length on a CPU, so that short ones are not padded to the longest.

    The gradient is that of the whole batch: rows do not see each other in a transformer.
    """
    if feed.lengths is None or device.type != "cpu":
        return [rows]
    ordered = rows[np.argsort(feed.lengths[rows], kind="stable")]
    return np.array_split(ordered, max(1, len(rows) // _PART))


def build_feed(
    task: Task,
    backbone: Backbone,
    *,
    folder: Path,
    views: int = 4,
    augmentation: bool = True,
    seed: int = 0,
) -> Feed:
    """The feed of a task: cached in ``folder`` where the backbone has frozen lower blocks.

    ``views`` augmented views are kept per image (0: none, training sees the plain image). A cache
    that was begun is finished, one of other data or weights is replaced. Raises ``OutputError``
    where ``folder`` cannot be written.
    """
    if backbone.trunk is None:
        return RawFeed(task, backbone, augmentation=augmentation)
    views = views if augmentation and task.modality == "image" else 0
    return CachedFeed(open_cache(task, backbone, folder=folder, views=views, seed=seed))
