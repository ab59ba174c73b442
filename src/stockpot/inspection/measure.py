"""The numbers of one tensor over several models, in one pass over blocks, with float64 sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

# Elements of one block of one model. Big enough that numpy's cost per call does not matter, small
# enough that a dozen models in float64 stay within tens of megabytes.
BLOCK = 1 << 16
# Where a grid of values is looked for: so many rows, so much of each; shorter rows say nothing.
_GRID_ROWS, _GRID_VALUES, _GRID_LEAST = 8, 4096, 256


@dataclass
class TensorSums:
    """What one pass over a tensor leaves behind; M models, the first is the reference.

    ``gram`` (M, M) holds the dot products of the tensors, ``shifted`` (M, M) those of each tensor
    with the others moved down by one row (their chance level; zero on the diagonal), ``deltas``
    (M, M) those of the differences from the reference. ``opposite`` of ``both`` pairs of entries
    that both differ from the reference do so with opposite signs. ``nonfinite`` maps a model's
    place to how many values are NaN or infinite and the flat position of the first. ``coarse``
    holds the places of models whose values here lie on a grid of at most 8 bits.
    """

    gram: Matrix
    shifted: Matrix
    deltas: Matrix
    elements: int = 0
    opposite: float = 0.0
    both: float = 0.0
    nonfinite: dict[int, tuple[int, int]] = field(default_factory=dict)
    coarse: set[int] = field(default_factory=set)

    @classmethod
    def zeros(cls, models: int) -> TensorSums:
        """Sums of nothing yet."""
        size = (models, models)
        return cls(np.zeros(size), np.zeros(size), np.zeros(size))


def rows_of(shape: Sequence[int]) -> tuple[int, int]:
    """Number of rows of a tensor and elements of each: (filters, weights of one filter).

    Leading axes of size one do not count: a class token of shape (1, 197, 768) has 197 rows.
    """
    sizes = list(shape)
    while len(sizes) > 1 and sizes[0] == 1:
        sizes.pop(0)
    if not sizes:
        return 1, 1
    return sizes[0], math.prod(sizes[1:])


def block_size(shape: Sequence[int], most: int = BLOCK) -> int:
    """Elements of one block: whole rows, as many as fit into ``most``, at least one."""
    row = max(1, rows_of(shape)[1])
    return max(1, most // row) * row


def measure(
    blocks: Iterable[Sequence[NDArray[Any]]], shape: Sequence[int], same: Identity | None = None
) -> TensorSums:
    """Sums over a tensor of ``shape``; ``blocks`` yields one flat block per model, in step.

    Blocks are whole rows (``block_size``). A tensor with NaN or infinity has NaN in its sums.
    """
    _, row = rows_of(shape)
    sums: TensorSums | None = None
    first = last = space = changes = np.zeros((0, 0))
    for parts in blocks:
        models, size = len(parts), parts[0].size
        if sums is None:
            # Written over by every block: fresh memory for each would cost more than the sums.
            space, changes = np.empty((models, size)), np.empty((models, size))
            sums = TensorSums.zeros(models)
        x, delta = space[:, :size], changes[:, :size]
        for values, part in zip(x, parts, strict=True):
            values[:] = part
        if same is not None:
            same.look(x)
        with np.errstate(invalid="ignore", over="ignore"):
            np.subtract(x, x[0], out=delta)
            gram = _gram(x)
            if not np.isfinite(gram.trace()):
                _note_nonfinite(sums, x)
            sums.gram += gram
            sums.deltas += _gram(delta)
            _count_signs(sums, delta[1:])
            rows = x.reshape(len(x), -1, max(1, row))
            sums.shifted += _cross(_flat(rows[:, 1:]), _flat(rows[:, :-1]))
            if sums.elements == 0:
                first = rows[:, 0].copy()
                sums.coarse = {place for place, values in enumerate(rows) if _is_coarse(values)}
            else:
                sums.shifted += _cross(rows[:, 0], last)
            last = rows[:, -1].copy()
        sums.elements += x.shape[1]
    if sums is None:
        raise ValueError("a tensor without elements has nothing to measure")
    with np.errstate(invalid="ignore", over="ignore"):
        # The last row meets the first, so that both sides of the ratio have the same norm.
        sums.shifted += _cross(first, last)
    return sums


def _flat(rows: Matrix) -> Matrix:
    return rows.reshape(len(rows), -1)


def _gram(x: Matrix) -> Matrix:
    """x x^T."""
    gram = np.empty((len(x), len(x)))
    for i, j in combinations_with_replacement(range(len(x)), 2):
        gram[i, j] = gram[j, i] = _dot(x[i], x[j])
    return gram


def _cross(x: Matrix, y: Matrix) -> Matrix:
    """x y^T without its diagonal, which stays zero."""
    cross = np.zeros((len(x), len(x)))
    for i, j in permutations(range(len(x)), 2):
        cross[i, j] = _dot(x[i], y[j])
    return cross


def _dot(a: Matrix, b: Matrix) -> float:
    """Dot product without BLAS: its threads would fight with ours, and decide the last bit."""
    return float(np.einsum("i,i->", a, b))


def _count_signs(sums: TensorSums, delta: Matrix) -> None:
    """Count pairs of models that change an entry, and those that do so in opposite directions."""
    if len(delta) < 2:
        return
    up = _count(delta > 0)
    down = _count(delta < 0)
    changed = up + down
    sums.opposite += float((up * down).sum())
    sums.both += float((changed * (changed - 1)).sum()) / 2.0


def _count(flags: NDArray[np.bool_]) -> NDArray[np.int32]:
    """How many models have the flag, at each position."""
    total: NDArray[np.int32] = flags[0].astype(np.int32)
    for flag in flags[1:]:
        total += flag
    return total


def _is_coarse(rows: Matrix) -> bool:
    """Whether each of the first rows repeats at most 256 values, as after rounding to 8 bits."""
    some = rows[:_GRID_ROWS, :_GRID_VALUES]
    if some.shape[1] < _GRID_LEAST:
        return False
    most = min(256, some.shape[1] // 2)
    ordered = (np.sort(row) for row in some)
    return all(np.count_nonzero(row[1:] != row[:-1]) < most for row in ordered)


def _note_nonfinite(sums: TensorSums, x: Matrix) -> None:
    for place, values in enumerate(x):
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            count, position = sums.nonfinite.get(place, (0, sums.elements + int(bad[0])))
            sums.nonfinite[place] = (count + int(bad.size), position)


@dataclass
class Identity:
    """Which pairs of models have been equal so far, exactly or after rounding to 16 bits.

    One object follows all tensors of a comparison. A pair that has differed once is never looked
    at again, and a block is read only where its first values agree: this costs next to nothing.
    """

    models: int
    exact: set[tuple[int, int]] = field(init=False)
    rounded: dict[tuple[int, int], set[str]] = field(init=False)

    def __post_init__(self) -> None:
        pairs = [(i, j) for i in range(self.models) for j in range(i + 1, self.models)]
        self.exact = set(pairs)
        self.rounded = {pair: {"F16", "BF16"} for pair in pairs}

    def look(self, x: Matrix) -> None:
        """Strike out the pairs that differ in this block, shape (models, n)."""
        for i, j in list(self.exact):
            if not _equal(x[i], x[j]):
                self.exact.discard((i, j))
        for (i, j), codes in self.rounded.items():
            for code in list(codes):
                if not _equal_rounded(x[i], x[j], code):
                    codes.discard(code)

    def drop(self, place: int) -> None:
        """A model that has other tensors than the rest equals none of them."""
        self.exact = {pair for pair in self.exact if place not in pair}
        for pair, codes in self.rounded.items():
            if place in pair:
                codes.clear()


def _equal(a: Matrix, b: Matrix) -> bool:
    return bool(np.array_equal(a[:64], b[:64]) and np.array_equal(a, b))


def _equal_rounded(a: Matrix, b: Matrix, code: str) -> bool:
    """Whether one side is the other rounded to ``code`` ("F16" or "BF16")."""

    def same(some: slice) -> bool:
        x, y = a[some], b[some]
        return bool(np.array_equal(x, _round(y, code)) or np.array_equal(_round(x, code), y))

    return same(slice(0, 64)) and same(slice(None))


def _round(values: Matrix, code: str) -> Matrix:
    """Round to the nearest value of a 16-bit format, ties to even."""
    if code == "F16":
        with np.errstate(over="ignore", under="ignore"):
            return values.astype(np.float16).astype(np.float64)
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(
        0xFFFF0000
    )
    return rounded.view(np.float32).astype(np.float64)
