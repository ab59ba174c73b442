"""Exact quantiles of magnitudes in a stream: which elements are the largest, without sorting them.

A float32 magnitude, read as an integer, keeps its order. So the k-th largest of any number of
elements is found by two counting passes: over the upper 16 of its 31 bits, then over the lower 15
within the one bin that holds it. Counts are integers, hence independent of block size and order.

Magnitudes are compared in float32. All elements equal to the threshold are on its upper side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from stockpot.merging.method import Array, Block, Count, Pass, Statistics

_LOW_BITS = 15
_LOW = 1 << _LOW_BITS
_HIGH = 1 << 16

Vectors = Callable[..., Sequence[Array]]
Ranks = Callable[..., Sequence[int]]


def threshold_passes(
    vectors: Vectors,
    ranks: Ranks,
    *,
    name: str = "threshold",
    scope: Literal["tensor", "model"] = "tensor",
) -> tuple[Pass, Pass]:
    """Passes after which ``block.statistics[name]`` holds magnitudes of given rank.

    Args:
        vectors: ``(block, **parameters) -> [flat arrays]``, for instance the deltas.
        ranks: ``(size, **parameters) -> [ranks]`` for vectors of ``size`` elements (of the tensor
            or, with ``scope="model"``, of all tensors together). Rank r asks for the r-th largest
            magnitude; rank 0 gives infinity, a rank of ``size`` or more gives 0.

    The statistic has shape (vectors, ranks), float64. To keep the r largest: ``abs(x) >=
    threshold``.
    """
    high, found, low = f"{name}_high", f"{name}_bins", f"{name}_low"

    def reduce_high(block: Block, **parameters: Any) -> dict[str, Count]:
        counts = [
            count(magnitude_bits(block.xp, vector) >> _LOW_BITS, _HIGH, block.xp)
            for vector in vectors(block, **parameters)
        ]
        return {high: Count(np.stack(counts))}

    def finish_high(statistics: Statistics, tensor: Any, **parameters: Any) -> Statistics:
        counts = statistics.pop(high)
        wanted = ranks(int(counts[0].sum()), **parameters)
        statistics[found] = [[locate(row, rank) for rank in wanted] for row in counts]
        return statistics

    def reduce_low(block: Block, **parameters: Any) -> dict[str, Count]:
        rows = []
        for vector, places in zip(
            vectors(block, **parameters), block.statistics[found], strict=True
        ):
            bits = magnitude_bits(block.xp, vector)
            upper = bits >> _LOW_BITS
            rows.append(
                np.stack(
                    [
                        count(bits[upper == place[0]] & (_LOW - 1), _LOW, block.xp)
                        if place is not None
                        else np.zeros(_LOW, dtype=np.int64)
                        for place in places
                    ]
                )
            )
        return {low: Count(np.stack(rows))}

    def finish_low(statistics: Statistics, tensor: Any, **parameters: Any) -> Statistics:
        counts, places = statistics.pop(low), statistics.pop(found)
        size_known = [
            [_magnitude(place, row) for place, row in zip(of_vector, rows, strict=True)]
            for of_vector, rows in zip(places, counts, strict=True)
        ]
        statistics[name] = np.array(size_known, dtype=np.float64)
        return statistics

    return Pass(reduce_high, finish_high, scope), Pass(reduce_low, finish_low, scope)


def magnitude_bits(xp: Any, x: Array) -> Array:
    """The magnitudes of ``x`` as float32, read as integers that have their order (same shape)."""
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(x, dtype=np.float32).view(np.uint32) & np.uint32(0x7FFFFFFF)
    return xp.astype(x, xp.float32).view(xp.int32) & 0x7FFFFFFF


def count(values: Array, bins: int, xp: Any) -> np.ndarray:
    """How often each of ``0 ... bins - 1`` occurs, int64, on the host."""
    if isinstance(values, np.ndarray):
        return np.bincount(values, minlength=bins)
    return np.asarray(xp.bincount(values, minlength=bins).cpu())


def locate(counts: np.ndarray, rank: int) -> tuple[int, int] | None:
    """Bin that holds the ``rank``-th element from the top, and its rank within the bin; None for
    rank 0.

    A rank beyond the last element is taken as "everything": (-1, 0).
    """
    if rank <= 0:
        return None
    if rank >= int(counts.sum()):
        return -1, 0
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, rank))
    above = int(from_top[place - 1]) if place else 0
    return len(counts) - 1 - place, rank - above


def _magnitude(place: tuple[int, int] | None, low_counts: np.ndarray) -> float:
    if place is None:
        return math.inf
    high, rank = place
    if high < 0:
        return 0.0
    from_top = np.cumsum(low_counts[::-1])
    low = len(low_counts) - 1 - int(np.searchsorted(from_top, rank))
    return float(np.array([(high << _LOW_BITS) | low], dtype=np.uint32).view(np.float32)[0])
