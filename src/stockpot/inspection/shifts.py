"""Is a model another one with a layer taken out, or put in, so that the numbers moved?"""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np

from stockpot.checkpoints import Checkpoint
from stockpot.inspection.verdict import SAME

_LAYER = re.compile(r"(.*?\.)(\d+)(\..+)")
# Rows and columns of a matrix that are compared, and how far a layer may have moved.
_PART = 256
_FARTHEST = 4


def moved_layers(first: Checkpoint, second: Checkpoint) -> dict[int, int]:
    """Numbers of layers in ``second`` -> numbers in ``first``, for those that moved.

    One matrix a layer is compared, the largest that all layers have in one shape. Empty where
    nothing moved, or the layers are strangers.
    """
    ours, theirs = _matrices(first), _matrices(second)
    moved = {}
    for number, name in theirs.items():
        values = _part(second, name)
        alike = {
            other: _cosine(_part(first, ours[other]), values)
            for other in range(max(number - _FARTHEST, 0), number + _FARTHEST + 1)
            if other in ours
        }
        best = max(alike, key=lambda other: alike[other], default=number)
        if best != number and alike[best] >= SAME and alike.get(number, 0.0) < SAME:
            moved[number] = best
    return moved


def describe_moves(moved: dict[int, int], first: str, second: str) -> str:
    """The moves in one line."""
    (start, source), (stop, last) = min(moved.items()), max(moved.items())
    return f"layers {start} to {stop} of {second} are layers {source} to {last} of {first}"


def _matrices(weights: Checkpoint) -> dict[int, str]:
    families: dict[tuple[str, str, tuple[int, ...]], dict[int, str]] = defaultdict(dict)
    for name in weights.names:
        shape = tuple(weights.info(name).shape)
        match = _LAYER.fullmatch(name)
        if match and len(shape) == 2 and min(shape) >= 8:
            families[match[1], match[3], shape][int(match[2])] = name
    return max(
        families.values(), key=lambda layers: (len(layers), min(layers.values())), default={}
    )


def _part(weights: Checkpoint, name: str) -> np.ndarray:
    rows, columns = weights.info(name).shape
    size = min(rows, _PART) * columns
    values = weights.decode(name, 0, size, np.empty(size)).reshape(-1, columns)
    return values[:, :_PART]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return 0.0
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / size if size else 0.0
