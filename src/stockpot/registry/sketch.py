"""Sketches: a few values of each matrix, at fixed places, by which models are compared at once.

Distances and dot products of differences, estimated from the same random entries of both models,
are off by about sqrt(2 / n) of their size for n entries; a thousand are enough to find the nearest
of ten thousand models in milliseconds. What is found is then measured on the weights themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from stockpot.checkpoints import TensorInfo
from stockpot.checkpoints.dtypes import Array, is_float, widen

_LEAST = 64  # elements of a matrix that takes part
_TOTAL = 1024  # values of a sketch, about
_MOST, _FEWEST = 256, 16  # values of one matrix


def matrices(tensors: Mapping[str, TensorInfo]) -> list[TensorInfo]:
    """The float tensors with two axes and more that take part, by name."""
    return sorted(
        (
            info
            for info in tensors.values()
            if len(info.shape) > 1 and info.size >= _LEAST and is_float(info.dtype)
        ),
        key=lambda info: info.name,
    )


def family_of(taken: Sequence[TensorInfo]) -> str | None:
    """Hash of names and shapes: models of one family are compared value by value."""
    if not taken:
        return None
    text = "\n".join(f"{info.name} {info.shape}" for info in taken)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def values_each(count: int) -> int:
    """Values of one matrix in a sketch of ``count`` matrices."""
    return min(_MOST, max(_FEWEST, -(-_TOTAL // max(count, 1))))


def places(shape: Sequence[int]) -> Array:
    """Where a matrix of this shape is looked at: ``_MOST`` flat positions, the same everywhere."""
    size = int(np.prod(shape, dtype=np.int64))
    seed = int.from_bytes(hashlib.sha256(str(tuple(shape)).encode()).digest()[:8], "little")
    # PCG64's raw output is fixed by its definition, unlike the generator's distributions.
    raw = np.random.PCG64(seed).random_raw(_MOST)
    return (raw % np.uint64(size)).astype(np.int64)


def sketch(taken: Sequence[TensorInfo], raw: Callable[[str], Array]) -> Array:
    """Sketch (matrices, values) in float32; ``raw`` gives the stored values of a tensor, flat."""
    each = values_each(len(taken))
    found = np.empty((len(taken), each), np.float32)
    for row, info in zip(found, taken, strict=True):
        row[:] = widen(raw(info.name)[places(info.shape)[:each]], info.dtype)
    return found
