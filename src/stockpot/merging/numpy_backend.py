"""Blocks as numpy arrays, calculated on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stockpot.checkpoints import Checkpoint
from stockpot.checkpoints.dtypes import encode
from stockpot.merging.block import Array


def _numpy_namespace() -> Any:
    # numpy 2 speaks the array API itself; the wrapper for older ones takes 0.2 s to import.
    if int(np.__version__.split(".")[0]) >= 2:
        return np
    import array_api_compat.numpy

    return array_api_compat.numpy


BLOCK = 1 << 19
"""Float32 elements of a block on the CPU: a few arrays of this size stay in the cache. Threads take
turns with Python's lock after every call of numpy, so smaller blocks keep each other waiting."""


class NumpyBackend:
    """Scratch memory of one worker. Arrays of a block are reused by the next one."""

    xp: Any = _numpy_namespace()
    block = BLOCK

    def __init__(self) -> None:
        self._scratch: dict[tuple[int, Any], np.ndarray] = {}

    def load(
        self,
        source: Checkpoint,
        name: str,
        start: int,
        stop: int,
        dtype: np.dtype[Any],
        place: int,
    ) -> Array:
        """Elements ``start ... stop`` of a tensor, flat, in ``dtype``; valid until the next call
        with this ``place`` (0, 1, ...).
        """
        return source.decode(name, start, stop, self._buffer(place, stop - start, dtype))

    def gather(
        self,
        sources: Sequence[Checkpoint],
        name: str,
        runs: Sequence[tuple[int, int]],
        dtype: np.dtype[Any],
    ) -> list[Array]:
        """The elements of several runs of the tensor in each source, side by side, in ``dtype``."""
        found = []
        for source in sources:
            out = np.empty(sum(stop - start for start, stop in runs), dtype)
            place = 0
            for start, stop in runs:
                source.decode(name, start, stop, out[place : place + stop - start])
                place += stop - start
            found.append(self.upload(out))
        return found

    def upload(self, array: np.ndarray) -> Array:
        """A numpy array as an array of this backend."""
        return array

    def store(self, values: Array, code: str, out: np.ndarray) -> None:
        """Round values once to ``code``, into flat storage."""
        encode(values.reshape(-1), code, out)

    def _buffer(self, slot: int, size: int, dtype: np.dtype[Any]) -> np.ndarray:
        buffer = self._scratch.get((slot, dtype))
        if buffer is None or buffer.size < size:
            buffer = self._scratch[slot, dtype] = np.empty(size, dtype)
        return buffer[:size]
