"""Rows for modules that no stockpot backbone wraps: tensors in memory, or their trunk on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stockpot.backbones import Activations
from stockpot.errors import BackboneError, InputError
from stockpot.files import atomic_folder, digest, write_json
from stockpot.progress import progress
from stockpot.reading import read_json
from stockpot.tangent.linear import TangentModel
from stockpot.training.cache import CHUNK, ActivationCache
from stockpot.training.feed import CachedFeed, Feed


class TensorFeed:
    """Inputs in memory: one tensor (N, ...), or a mapping or tuple of tensors with N rows each."""

    lengths = None

    def __init__(self, inputs: Any) -> None:
        counts = {len(tensor) for tensor in _tensors(inputs)}
        if len(counts) != 1:
            raise InputError(f"inputs have {sorted(counts)} rows, expected one number of rows")
        self.inputs = inputs
        self.count = counts.pop()
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return self.count

    def to(self, device: torch.device) -> None:
        """Hand out batches on ``device``."""
        self.device = device

    def batch(self, rows: np.ndarray, *, augment: np.random.Generator | None = None) -> Any:
        """The rows of every tensor; nothing is augmented."""
        return self._take(self.inputs, torch.from_numpy(np.asarray(rows)))

    def _take(self, inputs: Any, rows: Tensor) -> Any:
        if isinstance(inputs, Mapping):
            return {name: self._take(value, rows) for name, value in inputs.items()}
        if isinstance(inputs, tuple):
            return tuple(self._take(value, rows) for value in inputs)
        return inputs[rows].to(self.device)


def cache_trunk(model: TangentModel, feed: Feed, folder: str | Path, *, fingerprint: str) -> Feed:
    """Run the trunk once over all rows and keep its activations in ``folder``, float16.

    ``fingerprint`` names the data. A finished cache of the same data and base is read again, any
    other is replaced. Without a trunk the feed itself comes back.
    Raises ``BackboneError`` where activations do not fit 16 bits, or have a mask (load texts with
    ``stockpot.backbones.load_backbone``, whose cache knows about lengths).
    """
    if not model.has_trunk:
        return feed
    folder = Path(folder)
    key = digest([model.base_digest, sorted(model.names), fingerprint, len(feed)])
    note = folder / "trunk.json"
    if not note.is_file() or read_json(note)["key"] != key:
        with atomic_folder(folder, replace=True) as made:
            _write(model, feed, made, key)
    shape = read_json(note)["shape"]
    values = np.memmap(folder / "trunk.bin", np.float16, mode="r", shape=tuple(shape))
    return CachedFeed(ActivationCache(values, len(feed), views=0))


def _write(model: TangentModel, feed: Feed, folder: Path, key: str) -> None:
    feed.to(model.device)
    first = _compute(model, feed, np.arange(1))
    shape = [1, len(feed), *first.shape[1:]]
    values = np.memmap(folder / "trunk.bin", np.float16, mode="w+", shape=tuple(shape))
    with progress("Frozen blocks", len(feed)) as advance:
        for start in range(0, len(feed), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(feed)))
            values[0, rows] = _compute(model, feed, rows)
            advance(len(rows))
    values.flush()
    write_json(folder / "trunk.json", {"key": key, "shape": shape})


def _compute(model: TangentModel, feed: Feed, rows: np.ndarray) -> np.ndarray:
    crossing: Activations = model.trunk(feed.batch(rows))
    if crossing.mask is not None:
        raise BackboneError(
            "activations with a mask cannot be kept here",
            hint="load the encoder with stockpot.backbones.load_backbone and use build_feed",
        )
    values = crossing.values
    if values.ndim == 4:  # the order in which a cached feed keeps feature maps
        values = values.permute(0, 2, 3, 1)
    found: np.ndarray = values.cpu().to(torch.float16).numpy()
    if not np.isfinite(found).all():
        raise BackboneError(
            f"activations at the cut do not fit 16 bits (largest {float(values.abs().max()):.3g})",
            hint="choose another from_block",
        )
    return found


def _tensors(inputs: Any) -> list[Tensor]:
    if isinstance(inputs, Tensor):
        return [inputs]
    values = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    if not isinstance(values, list | tuple) or not values:
        raise InputError(f"inputs are {type(inputs).__name__}, expected tensors")
    return [tensor for value in values for tensor in _tensors(value)]
