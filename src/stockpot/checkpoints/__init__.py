"""Weights on disk: opened lazily, read in blocks, written whole or not at all. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.header import TensorInfo
from stockpot.checkpoints.memory import MemoryCheckpoint
from stockpot.checkpoints.open import open_checkpoint
from stockpot.checkpoints.writer import CheckpointWriter, write_checkpoint
from stockpot.extras import lazily

if TYPE_CHECKING:
    from stockpot.checkpoints.torch_io import load_state, save_state

__all__ = [
    "Checkpoint",
    "CheckpointWriter",
    "MemoryCheckpoint",
    "TensorInfo",
    "load_state",
    "open_checkpoint",
    "save_state",
    "write_checkpoint",
]

__getattr__ = lazily(
    __name__,
    {
        "torch_io": "load_state save_state",
    },
)
