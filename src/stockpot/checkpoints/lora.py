"""LoRA adapters: all that reads them, under one name.

``adapter.py`` says what one is made of; ``open.py`` opens it together with its base.
"""

from stockpot.checkpoints.adapter import AdaptedCheckpoint, Adapter, Factors, read_adapter
from stockpot.checkpoints.open import open_adapted

__all__ = ["AdaptedCheckpoint", "Adapter", "Factors", "open_adapted", "read_adapter"]
