"""What adapters do to one weight, in float64 and by rows, so that no matrix is held whole.

A weight is seen as a matrix: row i is ``tensor[i]``, flattened. A *delta* is a matrix that is
added; an *edit* turns the rows of a weight into new rows. Rows are always computed in the same
groups, so that a value does not depend on which piece of the tensor was asked for (matrix libraries
sum in an order that depends on the shape).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np

from stockpot.checkpoints.dtypes import Array

GROUP = 64
"""Rows of a group."""

Rows: TypeAlias = Callable[[int, int], Array]
"""Rows ``start ... stop`` of a weight, float64 (stop - start, columns), from one group or whole."""

Edit: TypeAlias = Callable[[Rows], Rows]


class Delta(ABC):
    """A matrix that is added to a weight; rows on demand."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    @abstractmethod
    def transposed(self) -> Delta:
        """The same of a weight that is stored transposed."""

    @abstractmethod
    def _rows(self, start: int, stop: int) -> Array: ...

    def rows(self, start: int, stop: int) -> Array:
        """Rows ``start ... stop``, float64 (stop - start, columns)."""
        first, last = start // GROUP * GROUP, min(-(-stop // GROUP) * GROUP, self.shape[0])
        groups = [self._rows(i, min(i + GROUP, self.shape[0])) for i in range(first, last, GROUP)]
        if not groups:
            return np.zeros((0, self.shape[1]))
        return np.concatenate(groups)[start - first : stop - first]

    def whole(self) -> Array:
        """All rows."""
        return self.rows(0, self.shape[0])


@dataclass(frozen=True)
class Factors(Delta):
    """``scale * left @ right``; left (rows, r), right (r, columns), float64."""

    left: Array
    right: Array
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.left), self.right.shape[1]

    def transposed(self) -> Factors:
        left, right = np.ascontiguousarray(self.right.T), np.ascontiguousarray(self.left.T)
        return Factors(left, right, self.scale)

    def _rows(self, start: int, stop: int) -> Array:
        product = self.left[start:stop] @ self.right
        product *= self.scale
        return product


@dataclass(frozen=True)
class Hadamard(Delta):
    """The product of two deltas, element by element (LoHa, arXiv 2108.06098)."""

    first: Factors
    second: Factors

    @property
    def shape(self) -> tuple[int, int]:
        return self.first.shape

    def transposed(self) -> Hadamard:
        return Hadamard(self.first.transposed(), self.second.transposed())

    def _rows(self, start: int, stop: int) -> Array:
        return self.first.rows(start, stop) * self.second.rows(start, stop)


@dataclass(frozen=True)
class Kronecker(Delta):
    """``scale * kron(first, second)`` (LoKr, arXiv 2212.10650)."""

    first: Array
    second: Array
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        a, b = self.first.shape, self.second.shape
        return a[0] * b[0], a[1] * b[1]

    def transposed(self) -> Kronecker:
        return Kronecker(self.first.T, self.second.T, self.scale)

    def _rows(self, start: int, stop: int) -> Array:
        outer, inner = np.divmod(np.arange(start, stop), len(self.second))
        product = self.first[outer][:, :, None] * self.second[inner][:, None, :]
        return self.scale * product.reshape(stop - start, -1)


@dataclass(frozen=True)
class Blocks(Delta):
    """Deltas of equal shape below each other: experts in one tensor."""

    parts: Sequence[Delta]

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.parts[0].shape
        return len(self.parts) * rows, columns

    def transposed(self) -> Blocks:
        return Blocks([part.transposed() for part in self.parts])

    def _rows(self, start: int, stop: int) -> Array:
        size = self.parts[0].shape[0]
        pieces = []
        for number in range(start // size, -(-stop // size)):
            first = number * size
            pieces.append(self.parts[number].rows(max(start - first, 0), min(stop - first, size)))
        return np.concatenate(pieces)


@dataclass(frozen=True)
class Slice(Delta):
    """Some rows of a delta: a part of what was fused."""

    whole_delta: Delta
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.stop - self.start, self.whole_delta.shape[1]

    def transposed(self) -> Delta:
        raise NotImplementedError("rows are cut from what is stored as modules are")

    def _rows(self, start: int, stop: int) -> Array:
        return self.whole_delta.rows(self.start + start, self.start + stop)


def add(delta: Delta) -> Edit:
    """``W + delta``."""
    return lambda read: lambda start, stop: read(start, stop) + delta.rows(start, stop)


def scale_rows(factors: Array) -> Edit:
    """Each row by its factor (IA3 of keys and values)."""
    return lambda read: lambda start, stop: read(start, stop) * factors[start:stop, None]


def scale_columns(factors: Array) -> Edit:
    """Each column by its factor (IA3 of feed-forward layers)."""
    return lambda read: lambda start, stop: read(start, stop) * factors


def set_rows(indices: Array, values: Array) -> Edit:
    """Some rows anew: trained tokens."""

    def edit(read: Rows) -> Rows:
        def rows(start: int, stop: int) -> Array:
            result = read(start, stop)
            inside = (indices >= start) & (indices < stop)
            result[indices[inside] - start] = values[inside]
            return result

        return rows

    return edit


def set_length(magnitude: Array, count: int, *, columns: bool) -> Edit:
    """Rows (or columns) of a weight of ``count`` rows brought to the length ``magnitude``.

    DoRA, arXiv 2402.09353: ``m (W + delta) / ||W + delta||``, after the delta was added.
    """

    def edit(read: Rows) -> Rows:
        if not columns:

            def by_row(start: int, stop: int) -> Array:
                values = read(start, stop)
                lengths = np.sqrt(np.sum(values * values, axis=1))
                return np.asarray(values * (magnitude[start:stop] / lengths)[:, None])

            return by_row

        @cache
        def factors() -> Array:
            squares = np.zeros(len(magnitude))
            for start in range(0, count, GROUP):
                values = read(start, min(start + GROUP, count))
                squares += np.sum(values * values, axis=0)
            return np.asarray(magnitude / np.sqrt(squares))

        return lambda start, stop: np.asarray(read(start, stop) * factors())

    return edit


def take_out(
    kind: Literal["pissa", "olora"], count: int, rank: int, scale: float, *, transposed: bool
) -> Edit:
    """The base without the part that the factors began with.

    PiSSA (arXiv 2404.02948): its ``rank`` largest singular triplets. OLoRA (arXiv 2406.01775):
    ``scale`` times the first columns of Q and rows of R.
    """

    def edit(read: Rows) -> Rows:
        @cache
        def part() -> Factors:
            weight = read(0, count)
            matrix = weight.T if transposed else weight
            if kind == "pissa":
                u, s, vt = np.linalg.svd(matrix, full_matrices=False)
                initial = Factors(u[:, :rank] * s[:rank], vt[:rank], -1.0)
            else:
                q, r = np.linalg.qr(matrix)
                initial = Factors(q[:, :rank], r[:rank], -scale)
            return initial.transposed() if transposed else initial

        return lambda start, stop: read(start, stop) + part().rows(start, stop)

    return edit
