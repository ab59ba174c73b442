"""Encoded weights as floats: small integers or floats times scales, computed piece by piece.

Everything is float32 arithmetic on the stored values, so that a value does not depend on which
piece of the tensor was asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stockpot.checkpoints.dtypes import Array

Unpack = Callable[[int, int], Array]
"""Rows ``first ... last`` of the stored numbers, unscaled: float32 (last - first, columns)."""

# E2M1: sign, two bits of exponent, one of mantissa (OCP Microscaling Formats 1.0, table 5).
_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


class Values(ABC):
    """The floats that an encoded tensor stands for."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Array:
        """Elements ``start ... stop`` of the flattened tensor, float32."""


@dataclass(frozen=True)
class ScaledRows(Values):
    """``(q - zero) * scale``, the scale and zero of row i and column j at a place of small tables.

    ``scales`` and ``zeros`` are float32 (row groups, column groups); ``row_groups`` (rows,) and
    ``column_groups`` (columns,) give the place in them.
    """

    columns: int
    unpack: Unpack
    scales: Array
    row_groups: Array
    column_groups: Array
    zeros: Array | None = None

    def read(self, start: int, stop: int) -> Array:
        first, last = start // self.columns, -(-stop // self.columns)
        values = self.unpack(first, last)
        if self.zeros is not None:
            values -= self._table(self.zeros, first, last)
        values *= self._table(self.scales, first, last)
        origin = first * self.columns
        return values.reshape(-1)[start - origin : stop - origin]

    def _table(self, table: Array, first: int, last: int) -> Array:
        rows = table[self.row_groups[first:last]]
        return rows if table.shape[1] == 1 else rows[:, self.column_groups]


@dataclass(frozen=True)
class CodedBlocks(Values):
    """``code[q] * scale``, with 4-bit numbers q, the first in the high bits, and one scale for so
    many elements of the flattened tensor (bitsandbytes' nf4 and fp4).
    """

    packed: Array
    code: Array
    scales: Array
    block: int

    def read(self, start: int, stop: int) -> Array:
        packed = self.packed[start // 2 : -(-stop // 2)]
        numbers = np.stack((packed >> 4, packed & 15), axis=1).reshape(-1)
        values: Array = self.code[numbers[start % 2 :][: stop - start]]
        values *= self.scales[np.arange(start, stop) // self.block]
        return values


def unpack_bits(words: Array, bits: int) -> Array:
    """Numbers of ``bits`` bits out of 32-bit words (..., n), the lowest first: (..., n * 32 / bits)
    uint8.
    """
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    numbers = words.view(np.uint32)[..., None] >> shifts & np.uint32(2**bits - 1)
    return numbers.astype(np.uint8).reshape(*words.shape[:-1], -1)


def unpack_fp4(packed: Array) -> Array:
    """Two E2M1 numbers a byte, the first in the low bits: (..., n) uint8 to (..., 2 n) float32."""
    numbers = np.stack((packed & 15, packed >> 4), axis=-1)
    return _FP4[numbers].reshape(*packed.shape[:-1], -1)


def power_of_two(exponents: Array) -> Array:
    """E8M0 scales: 2 ** (byte - 127), NaN for 255 (OCP Microscaling Formats 1.0, section 5.4)."""
    scales = np.ldexp(np.float32(1), exponents.astype(np.int32) - 127)
    return np.where(exponents == 255, np.float32(np.nan), scales).astype(np.float32)
