"""Results kept in memory, as arrays of the kind the parents were; and no results at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.checkpoints.dtypes import STORAGE, widen
from stockpot.checkpoints.memory import torch_tensor


class MemorySink:
    """A state that is filled piece by piece."""

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        self.tensors: dict[str, TensorInfo] = {}
        self.stored: dict[str, np.ndarray] = {}
        for info in tensors.values():
            self.add(info)

    def add(self, info: TensorInfo) -> None:
        """Make room for one more tensor."""
        self.tensors[info.name] = info
        self.stored[info.name] = np.empty(info.size, STORAGE[info.dtype])

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        flat = stored.reshape(-1)
        self.stored[name][start : start + flat.size] = flat

    def room(self, name: str, start: int, size: int) -> Iterator[np.ndarray]:
        yield self.stored[name][start : start + size]

    def state(self, *, torch: bool) -> dict[str, Any]:
        """Torch tensors, or numpy arrays (bfloat16, which numpy lacks, as float32 of equal
        value).
        """
        state: dict[str, Any] = {}
        for name, info in self.tensors.items():
            stored = self.stored[name].reshape(info.shape)
            state[name] = torch_tensor(stored, info.dtype) if torch else widen(stored, info.dtype)
        return state

    def checkpoint(self, label: str) -> Checkpoint:
        """What has been written, as a checkpoint."""
        return _StoredCheckpoint(self, label)


class Nowhere:
    """For passes, which write nothing."""

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        raise AssertionError("a pass writes nothing")

    def room(self, name: str, start: int, size: int) -> Iterator[np.ndarray]:
        raise AssertionError("a pass writes nothing")


class _StoredCheckpoint(Checkpoint):
    def __init__(self, sink: MemorySink, label: str) -> None:
        super().__init__(sink.tensors, label=label)
        self._stored = sink.stored

    def raw(self, name: str) -> np.ndarray:
        self.info(name)
        return self._stored[name]
