"""Where blocks are calculated: numpy arrays by default, torch tensors of a device when asked
for.
"""

from __future__ import annotations

from collections.abc import Callable

from stockpot.merging.numpy_backend import NumpyBackend
from stockpot.merging.torch_backend import torch_backend


def backend_for(device: str) -> Callable[[], NumpyBackend]:
    """Maker of backends for "cpu" (numpy) or a torch device ("cuda", "cuda:1", "torch-cpu")."""
    if device == "cpu":
        return NumpyBackend
    return torch_backend(device)
