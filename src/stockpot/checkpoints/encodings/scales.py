"""Grids of scales over a weight: one for all, one a row, one a block of rows and columns."""

from __future__ import annotations

import math

import numpy as np

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.dtypes import Array, decode
from stockpot.checkpoints.encodings.values import ScaledRows, Unpack, power_of_two

_USUAL = 128
"""Rows and columns of a block where nothing else is said (DeepSeek-V3, arXiv 2412.19437)."""


class ScaleGrid:
    """Where the scale of each element lies in a tensor of scales.

    Args:
        shape: of the weight (..., rows, columns); leading axes (experts) have scales of their own.
        scales: shape of the scales: one element, (rows,), or as many axes as the weight.
        block: rows and columns of a block where a config says so.

    ``fits`` is False where the shapes do not say which block a scale belongs to.
    """

    def __init__(
        self, shape: tuple[int, ...], scales: tuple[int, ...], block: tuple[int, int] | None
    ) -> None:
        self.scales = scales
        self.columns = shape[-1]
        matrices, rows = math.prod(shape[:-2]), shape[-2] if len(shape) > 1 else 1
        self._many, self._rows = matrices, rows
        grid = self._grid(shape, scales)
        self.fits = grid is not None
        if grid is None:
            return
        self._lead, (self._down, self._across) = grid
        sizes = block or (0, 0)
        heights = _block(rows, self._down, sizes[0])
        widths = _block(self.columns, self._across, sizes[1])
        self.fits = heights is not None and widths is not None
        self._height, self._width = heights or 1, widths or 1

    def _grid(
        self, shape: tuple[int, ...], scales: tuple[int, ...]
    ) -> tuple[bool, tuple[int, int]] | None:
        """Whether each matrix has scales of its own, and their rows and columns."""
        if math.prod(scales) == 1:
            return False, (1, 1)
        if len(scales) == 1 and len(shape) == 2 and scales[0] == shape[0]:
            return False, (scales[0], 1)
        if len(scales) == 1 and len(shape) == 3 and scales[0] == shape[0]:
            return True, (1, 1)
        if len(scales) != len(shape) or len(shape) < 2:
            return None
        lead = scales[:-2]
        if lead not in (shape[:-2], (1,) * len(lead)):
            return None
        return lead == shape[:-2] and bool(lead), (scales[-2], scales[-1])

    def rows(self, unpack: Unpack, scales: Array, zeros: Array | None = None) -> ScaledRows:
        """The weight's values from its unscaled rows and the flat tables."""
        row = np.arange(self._many * self._rows)
        matrix, inside = np.divmod(row, self._rows)
        groups = inside // self._height + (matrix * self._down if self._lead else 0)
        columns = np.arange(self.columns) // self._width
        shape = (-1, self._across)
        zero = None if zeros is None else zeros.reshape(shape)
        return ScaledRows(self.columns, unpack, scales.reshape(shape), groups, columns, zero)


def scale_values(stored: Checkpoint, name: str) -> Array:
    """A tensor of scales, flat float32; bytes are powers of two (E8M0)."""
    info, raw = stored.info(name), stored.raw(name)
    if info.dtype in ("U8", "F8_E8M0"):
        return power_of_two(raw)
    return decode(raw, info.dtype, np.empty(info.size, np.float32))


def _block(size: int, groups: int, said: int) -> int | None:
    """Elements of a block along one axis; None where that cannot be told for sure."""
    if groups in (1, size):
        return size if groups == 1 else 1
    if said > 0:
        return said if -(-size // said) == groups else None
    possible = {size // groups} if size % groups == 0 else set()
    if -(-size // _USUAL) == groups:
        possible.add(_USUAL)
    return possible.pop() if len(possible) == 1 else None
