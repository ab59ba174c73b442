"""SHA-256 of tensors while they are written, so that no result is read back to be hashed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stockpot.checkpoints.dtypes import Array
from stockpot.checkpoints.header import TensorInfo


@dataclass
class _Running:
    """A tensor that is hashed up to element ``end``; ``hashing`` while a thread is at it."""

    end: int = 0
    hashing: bool = False
    lost: bool = False
    sha: Any = field(default_factory=hashlib.sha256)


class RunningDigests:
    """Digests of the tensors whose pieces come one after another, from the first element on.

    A tensor whose pieces come in another order, or from several threads at once, has none: its
    digest is taken from the file. Methods may be called from several threads.
    """

    def __init__(self) -> None:
        self._running: dict[str, _Running] = {}
        self._known: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def add(self, name: str, start: int, stored: Array) -> None:
        """Element ``start`` and those after it, as they are stored."""
        with self._lock:
            tensor = self._running.setdefault(name, _Running())
            if tensor.lost or tensor.hashing or tensor.end != start:
                tensor.lost = True
                return
            tensor.hashing = True
        tensor.sha.update(stored.reshape(-1).view(np.uint8).data)
        with self._lock:
            tensor.end += stored.size
            tensor.hashing = False

    def learn(self, known: Mapping[str, bytes]) -> None:
        """Take over digests from another process."""
        self._known.update(known)

    def complete(self, tensors: Mapping[str, TensorInfo]) -> dict[str, bytes]:
        """The digests of those tensors that have been hashed to their end."""
        whole = {
            name: tensor.sha.digest()
            for name, tensor in self._running.items()
            if not tensor.lost and tensor.end == tensors[name].size
        }
        return {**self._known, **whole}
