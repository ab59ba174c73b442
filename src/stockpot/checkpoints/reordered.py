"""A checkpoint with rows and columns of some tensors in another order, read on demand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.dtypes import Array, decode, first_nonfinite

Order = NDArray[np.intp]
Orders = Mapping[str, Mapping[int, Order]]
"""By tensor and axis (0 or 1): position ``i`` of the result is position ``order[i]`` of the source.
"""


class ReorderedCheckpoint(Checkpoint):
    """``source`` with ``orders`` applied; ``note`` says why, in a report."""

    def __init__(self, source: Checkpoint, orders: Orders, *, note: str) -> None:
        super().__init__(
            source.tensors, label=source.label, path=source.path, metadata=source.metadata
        )
        self.base = source.base
        self.config_changes = source.config_changes
        self._source = source
        self._orders = orders
        self._note = note

    @property
    def home(self) -> Path | None:
        return self._source.home

    @property
    def stored(self) -> Checkpoint:
        return self._source.stored

    @property
    def notes(self) -> list[str]:
        return [*self._source.notes, self._note]

    def raw(self, name: str) -> Array:
        return self._piece(name, 0, self.info(name).size)

    def decode(self, name: str, start: int, stop: int, out: Array) -> Array:
        if name not in self._orders:
            return self._source.decode(name, start, stop, out)
        return decode(self._piece(name, start, stop), self.info(name).dtype, out)

    def first_nonfinite(self, name: str, start: int, stop: int) -> int | None:
        position = first_nonfinite(self._piece(name, start, stop), self.info(name).dtype)
        return None if position is None else start + position

    def prefetch(self, name: str) -> None:
        self._source.prefetch(name)

    def close(self) -> None:
        self._source.close()

    def _piece(self, name: str, start: int, stop: int) -> Array:
        stored = self._source.raw(name)
        orders = self._orders.get(name, {})
        if not orders or stop <= start:
            return stored[start:stop]
        rows = stored.reshape(self.info(name).shape[0], -1)
        columns = rows.shape[1]
        first, last = start // columns, -(-stop // columns)
        wanted = rows[orders[0][first:last]] if 0 in orders else rows[first:last]
        if 1 in orders:
            kernel = columns // len(orders[1])
            parts = wanted.reshape(len(wanted), -1, kernel)
            wanted = parts[:, orders[1]]
        flat: Array = wanted.reshape(-1)[start - first * columns : stop - first * columns]
        return flat
