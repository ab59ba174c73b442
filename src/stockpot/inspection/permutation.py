"""Are these the same weights with their channels in another order?

A network computes the same function after its hidden units (filters, channels) are reordered, and
the average with the original is still noise. A tensor is compared after its rows, its columns, or
both were matched. Matching finds some agreement between strangers too; how much is measured, as
everywhere here, against a tensor of the same values whose rows cannot meet their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Cube = NDArray[np.float32]
Order = NDArray[np.intp]

# Larger tensors are not read whole; both sides are matched up to so many rows and columns.
LARGEST = 1 << 22
_BOTH_SIDES = 2048
# One side alone is judged from so many rows and so many values of each.
_QUERIES, _VALUES = 512, 512
_ROUNDS = 4


def is_permuted(a: NDArray[np.floating], b: NDArray[np.floating], threshold: float) -> bool:
    """Whether ``b`` is ``a`` (or near it) with rows, columns or both in another order.

    ``a`` and ``b`` have one shape (rows, columns, ...) of at most ``LARGEST`` elements. The cosine
    after matching, adjusted for what matching finds between strangers, has to reach ``threshold``.
    """
    first, second = _cube(a), _cube(b)
    stranger = _stranger(second)
    for score in _scores(first.shape):
        chance = score(first, stranger)
        if chance < 1.0 and (score(first, second) - chance) / (1.0 - chance) >= threshold:
            return True
    return False


def _scores(shape: Sequence[int]) -> list[Callable[[Cube, Cube], float]]:
    rows, columns, _ = shape
    scores: list[Callable[[Cube, Cube], float]] = [_rows_alone]
    if columns > 1:
        scores.append(lambda a, b: _rows_alone(_turned(a), _turned(b)))
        if max(rows, columns) <= _BOTH_SIDES:
            scores.append(_both_sides)
    return scores


def _cube(values: NDArray[np.floating]) -> Cube:
    """(rows, columns, values of a kernel); leading axes of size one do not count."""
    sizes = list(values.shape)
    while len(sizes) > 1 and sizes[0] == 1:
        sizes.pop(0)
    rows, columns = sizes[0], sizes[1] if len(sizes) > 1 else 1
    kernel = math.prod(sizes[2:])
    return np.ascontiguousarray(values, np.float32).reshape(rows, columns, kernel)


def _turned(cube: Cube) -> Cube:
    return np.ascontiguousarray(cube.swapaxes(0, 1))


def _stranger(cube: Cube) -> Cube:
    """The same values in every row, moved along by another number of positions in each row."""
    flat = cube.reshape(len(cube), -1)
    width = flat.shape[1]
    positions = (np.arange(width) + 1 + np.arange(len(flat))[:, None]) % width
    return np.take_along_axis(flat, positions, axis=1).reshape(cube.shape)


def _rows_alone(a: Cube, b: Cube) -> float:
    """Mean cosine of some rows of ``a`` with the nearest row of ``b``."""
    queries, values = _unit(_some(a, _QUERIES)), _unit(b)
    if a[0].size > _VALUES:
        columns = _spread(a[0].size, _VALUES)
        queries, values = _unit(queries[:, columns]), _unit(values[:, columns])
    return float((queries @ values.T).max(axis=1).mean())


def _some(cube: Cube, most: int) -> Cube:
    return cube[_spread(len(cube), most)]


def _spread(count: int, most: int) -> Order:
    """Up to ``most`` positions, evenly through ``count``."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = rows.reshape(len(rows), -1)
    norms: NDArray[np.float32] = np.linalg.norm(flat, axis=1, keepdims=True)
    norms[norms == 0] = 1.0
    return flat / norms


def _both_sides(a: Cube, b: Cube) -> float:
    """Cosine of ``a`` with ``b`` after rows and columns were matched in turn.

    The sorted values of a row do not depend on the order of the columns: they give the first guess.
    """
    rows = _nearest(np.sort(a, axis=1), np.sort(b, axis=1))
    columns = _nearest(np.sort(_turned(a), axis=1), np.sort(_turned(b), axis=1))
    best = -1.0
    for _ in range(_ROUNDS):
        columns = _nearest(_turned(a), _turned(b[rows]))
        rows = _nearest(a, b[:, columns])
        matched = b[rows][:, columns]
        size = float(np.linalg.norm(a) * np.linalg.norm(matched))
        cosine = float(np.vdot(a, matched)) / size if size > 0 else 0.0
        if cosine <= best:
            break
        best = cosine
    return best


def _nearest(a: Cube, b: Cube) -> Order:
    """For every row of ``a`` the row of ``b`` at the smallest distance."""
    x, y = a.reshape(len(a), -1), b.reshape(len(b), -1)
    nearest: Order = (x @ y.T - 0.5 * np.einsum("ij,ij->i", y, y)).argmax(axis=1)
    return nearest
