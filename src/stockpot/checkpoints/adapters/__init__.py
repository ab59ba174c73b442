"""Adapters: what PEFT stores beside a base, read whole or refused by name, and a base with one.

``config.py`` says what becomes of every key, ``reading.py`` of every tensor; ``files.py`` reads
what other tools write; ``changes.py`` says what each kind does to a weight, ``names.py`` which
weight is meant; ``applied.py`` does it.
"""

from stockpot.checkpoints.adapters.applied import AdaptedCheckpoint
from stockpot.checkpoints.adapters.changes import Delta, Factors
from stockpot.checkpoints.adapters.files import read_adapter
from stockpot.checkpoints.adapters.reading import Adapter

__all__ = ["AdaptedCheckpoint", "Adapter", "Delta", "Factors", "read_adapter"]
