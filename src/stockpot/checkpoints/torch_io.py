"""States of PyTorch modules: load from any checkpoint, save as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stockpot.checkpoints.header import TensorInfo
from stockpot.checkpoints.memory import dtype_code, kind_of, storage_array, torch_tensor
from stockpot.checkpoints.open import open_checkpoint
from stockpot.checkpoints.writer import file_writer
from stockpot.errors import CheckpointError

if TYPE_CHECKING:
    import torch


def load_state(path: str | Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint (anything ``open_checkpoint`` takes), on the CPU, in their own
    memory.
    """
    with open_checkpoint(path) as checkpoint:
        state = {}
        for name in checkpoint.names:
            info = checkpoint.info(name)
            stored = np.array(checkpoint.raw(name)).reshape(info.shape)
            state[name] = torch_tensor(stored, info.dtype)
        return state


def save_state(
    path: str | Path,
    state: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a state dict as one safetensors file, whole or not at all.

    Tensors may lie on any device and have any strides; tied tensors are written out under each
    name. Raises ``CheckpointError`` for a value that is no dense tensor.
    """
    plan: dict[str, TensorInfo] = {}
    for name, tensor in state.items():
        code = dtype_code(tensor)
        if code is None:
            raise CheckpointError(
                f"'{name}' is {kind_of(tensor)}, expected a dense tensor of numbers"
            )
        plan[name] = TensorInfo(name, tuple(tensor.shape), code)
    with file_writer(Path(path), plan, {"format": "pt", **(metadata or {})}) as writer:
        for name, info in plan.items():
            writer.write(name, 0, storage_array(state[name], info.dtype).reshape(-1))
