"""Results kept in memory, as arrays of the kind the parents were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stockpot.checkpoints import TensorInfo
from stockpot.checkpoints.dtypes import STORAGE, widen
from stockpot.checkpoints.memory import torch_tensor


class MemorySink:
    """A state that is filled piece by piece."""

    def __init__(self, tensors: Mapping[str, TensorInfo]) -> None:
        self.tensors = dict(tensors)
        self.stored = {
            name: np.empty(info.size, STORAGE[info.dtype]) for name, info in tensors.items()
        }

    def write(self, name: str, start: int, stored: np.ndarray) -> None:
        flat = stored.reshape(-1)
        self.stored[name][start : start + flat.size] = flat

    def state(self, *, torch: bool) -> dict[str, Any]:
        """Torch tensors, or numpy arrays (bfloat16, which numpy lacks, as float32 of equal
        value).
        """
        state: dict[str, Any] = {}
        for name, info in self.tensors.items():
            stored = self.stored[name].reshape(info.shape)
            state[name] = torch_tensor(stored, info.dtype) if torch else widen(stored, info.dtype)
        return state
