"""Weights on disk: opened lazily, read in blocks, written whole or not at all. Needs no torch."""

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.header import TensorInfo
from stockpot.checkpoints.memory import MemoryCheckpoint
from stockpot.checkpoints.open import open_checkpoint
from stockpot.checkpoints.writer import CheckpointWriter, write_checkpoint

__all__ = [
    "Checkpoint",
    "CheckpointWriter",
    "MemoryCheckpoint",
    "TensorInfo",
    "open_checkpoint",
    "write_checkpoint",
]
