"""Exact quantiles of magnitudes in a stream: which entries are the largest, without sorting them.

1. A sample of the tensor brackets each wanted magnitude.
2. One reading counts the entries above the bracket and keeps those inside, a few percent. The
   wanted one is among them and found exactly, or is known not to be.
3. Only where the sample misled: a histogram of all magnitudes gives a bracket that cannot fail,
   and step 2 is done once more.

The result is exact, so neither the sample nor how the stream is cut shows in it. All entries equal
to the threshold are on its upper side; where exactly so many are wanted (``first_ties``), those of
the lowest positions, and one more reading finds where these end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from stockpot.merging.block import Joined
from stockpot.merging.method import Array, Block, Count, Largest, Pass, Statistics

SAMPLE = 65_536
"""Entries of a tensor in the sample; tensors up to this size are read whole."""
_RUN = 2048
_DEVIATIONS = 5.0
_BINS = 1 << 16
_LOWER_BITS = 47

Vectors = Callable[..., Sequence[Array]]
Ranks = Callable[..., Sequence[int]]
Limits = tuple[float, float]


class SampledMagnitudes(NamedTuple):
    """Sampled magnitudes of one tensor of ``size`` entries: one array a vector."""

    size: int
    vectors: list[np.ndarray]


class Inside(NamedTuple):
    """The magnitudes of one block, sorted into: above the limits, at the upper one, strictly
    within, at the lower one.

    Those within are given as ``values`` and how often each occurs. The ends are counted because
    weights of 16 bits have few values: one of them may be a large part of all.
    """

    size: int
    above: int
    at_high: int
    values: np.ndarray
    repeats: np.ndarray
    at_low: int
    start: int = 0


class Samples(Joined):
    """Parts of many tensors, in any order."""

    @classmethod
    def of(cls, size: int, vectors: Sequence[np.ndarray]) -> Samples:
        """Sampled magnitudes of one tensor of ``size`` entries; they are copied."""
        taken = np.array([vectors[0].size])
        return cls(sizes=np.array([size]), taken=taken, magnitudes=np.stack(vectors, axis=1))

    def value(self) -> list[SampledMagnitudes]:
        arrays = self.arrays()
        pieces = np.split(arrays["magnitudes"], np.cumsum(arrays["taken"])[:-1])
        return [
            SampledMagnitudes(size, list(piece.T))
            for size, piece in zip(arrays["sizes"].tolist(), pieces, strict=True)
        ]


class Insides(Joined):
    """What ``inside`` says of blocks, in any order: of a block by vector, of a vector by rank."""

    @classmethod
    def of(cls, cells: Sequence[Inside]) -> Insides:
        """Those of one block."""
        return cls(
            counts=np.array(
                [(c.size, c.above, c.at_high, c.at_low, c.start, c.values.size) for c in cells]
            ),
            values=np.concatenate([cell.values for cell in cells]),
            repeats=np.concatenate([cell.repeats for cell in cells]),
        )

    def value(self) -> list[Inside]:
        counts, values, repeats = self.arrays().values()
        ends = np.cumsum(counts[:, 5])[:-1]
        rows = zip(counts.tolist(), np.split(values, ends), np.split(repeats, ends), strict=True)
        return [
            Inside(size, above, at_high, own, times, at_low, start)
            for (size, above, at_high, at_low, start, _), own, times in rows
        ]


def threshold_passes(
    vectors: Vectors,
    ranks: Ranks,
    *,
    name: str = "threshold",
    scope: Literal["tensor", "model"] = "tensor",
    first_ties: bool = False,
) -> tuple[Pass, ...]:
    """Passes after which ``block.statistics[name]`` holds magnitudes of given rank.

    Args:
        vectors: ``(block, **parameters) -> [flat arrays]``, for instance the deltas. An entry may
            depend on the same entry of the parents, and on statistics, only.
        ranks: ``(size, **parameters) -> [ranks]`` for vectors of ``size`` entries (of the tensor
            or, with ``scope="model"``, of all tensors together). Rank r asks for the r-th largest
            magnitude; rank 0 gives infinity, a rank of ``size`` or more gives 0.

    The statistic is a list of floats for each vector, one a rank. To keep the r largest: ``abs(x)
    >= threshold``.

    With ``first_ties`` (of tensors) there is a list of the same form called ``{name}.cut``: the
    position where entries equal to the threshold are no longer among the r largest. See ``kept``.
    """
    raw, limits, cut, open_ties = f"{name}.raw", f"{name}.limits", f"{name}.cut", f"{name}.open"

    def magnitudes(block: Block, parameters: dict[str, Any]) -> list[Array]:
        return [block.xp.abs(vector) for vector in vectors(block, **parameters)]

    def sample(block: Block, **parameters: Any) -> dict[str, Samples]:
        # Blocks reuse their memory, and abs of what is not negative may be the thing itself.
        sampled = [_host(x) for x in magnitudes(block, parameters)]
        return {raw: Samples.of(block.tensor.size, sampled)}

    def bracket(statistics: Statistics, tensor: Any, **parameters: Any) -> Statistics:
        parts: list[SampledMagnitudes] = statistics.pop(raw)
        wanted = ranks(sum(part.size for part in parts), **parameters)
        columns = range(len(parts[0].vectors))
        if all(part.vectors[0].size == part.size for part in parts):
            whole = [np.concatenate([part.vectors[column] for part in parts]) for column in columns]
            statistics[name] = [[_ranked(vector, rank) for rank in wanted] for vector in whole]
            if first_ties:
                statistics[cut] = [
                    [
                        _end_of_ties(vector, value, rank)
                        for value, rank in zip(row, wanted, strict=True)
                    ]
                    for vector, row in zip(whole, statistics[name], strict=True)
                ]
        else:
            statistics[limits] = [estimate(parts, column, wanted) for column in columns]
        return statistics

    def collect(block: Block, **parameters: Any) -> dict[str, Insides]:
        pairs = zip(magnitudes(block, parameters), block.statistics[limits], strict=True)
        return {
            raw: Insides.of(
                [inside(block.xp, x, within, block.start) for x, row in pairs for within in row]
            )
        }

    def select(statistics: Statistics, tensor: Any, **parameters: Any) -> Statistics:
        cells: list[Inside] = statistics.pop(raw)
        rows: list[list[Limits]] = statistics.pop(limits)
        columns = len(rows[0])
        wanted = ranks(sum(c.size for c in cells[:: len(rows) * columns]), **parameters)
        found = [
            [
                pick(cells[v * columns + r :: len(rows) * columns], within, rank)
                for r, (within, rank) in enumerate(zip(row, wanted, strict=True))
            ]
            for v, row in enumerate(rows)
        ]
        if all(value is not None for row in found for value in row):
            statistics[name] = found
            if first_ties:
                statistics[open_ties] = [
                    [
                        block_of_last_tie(
                            cells[v * columns + r :: len(rows) * columns], rows[v][r], value, rank
                        )
                        for r, (value, rank) in enumerate(zip(values, wanted, strict=True))
                    ]
                    for v, values in enumerate(statistics[name])
                ]
        return statistics

    def end(block: Block, **parameters: Any) -> dict[str, Largest]:
        """The cuts that lie in this block."""
        ends = np.zeros((len(block.statistics[name]), len(block.statistics[name][0])))
        wanted = block.statistics[open_ties]
        if any(start == block.start for row in wanted for start, _ in row):
            for v, x in enumerate(magnitudes(block, parameters)):
                for r, (start, count) in enumerate(wanted[v]):
                    if start == block.start:
                        value = block.statistics[name][v][r]
                        ends[v, r] = start + _last_tie(_host(x), value, count)
        return {raw: Largest(ends)}

    def close(statistics: Statistics, tensor: Any, **parameters: Any) -> Statistics:
        ends = statistics.pop(raw)
        statistics[cut] = [
            [math.inf if start < 0 else ends[v, r] for r, (start, _) in enumerate(row)]
            for v, row in enumerate(statistics.pop(open_ties))
        ]
        return statistics

    def is_open(statistics: Statistics) -> bool:
        return open_ties in statistics

    def count(block: Block, **parameters: Any) -> dict[str, Count]:
        rows = [np.bincount(_upper_bits(x), minlength=_BINS) for x in magnitudes(block, parameters)]
        return {raw: Count(np.stack(rows))}

    def locate(statistics: Statistics, tensor: Any, **parameters: Any) -> Statistics:
        counts = statistics.pop(raw)
        wanted = ranks(int(counts[0].sum()), **parameters)
        statistics[limits] = [[_bin_of(row, rank) for rank in wanted] for row in counts]
        return statistics

    def missing(statistics: Statistics) -> bool:
        return name not in statistics

    return (
        Pass(sample, bracket, scope, sample=SAMPLE),
        Pass(collect, select, scope, needed=missing),
        Pass(count, locate, scope, needed=missing),
        Pass(collect, select, scope, needed=missing),
        *((Pass(end, close, needed=is_open),) if first_ties else ()),
    )


def kept(xp: Any, magnitudes: Array, start: int, threshold: float, cut: float) -> Array:
    """Which of the flat ``magnitudes``, from position ``start``, are among the largest.

    All above ``threshold``, and those equal to it that lie before the position ``cut``.
    """
    size = int(magnitudes.shape[0])
    if cut >= start + size:
        return magnitudes >= threshold
    mask = magnitudes > threshold
    before = int(max(cut - start, 0))
    if before:
        mask[:before] = magnitudes[:before] >= threshold
    return mask


def block_of_last_tie(
    blocks: Sequence[Inside], limits: Limits, value: float, rank: int
) -> tuple[int, int]:
    """(start of the block, how many of its entries equal to ``value``) that ends the ``rank``
    largest; (-1, 0) where all entries of that value are among them.
    """
    above, ties = 0, []
    for block in blocks:
        higher, equal = _against(block, limits, value)
        above += higher
        ties.append((block.start, equal))
    left = rank - above
    if left >= sum(equal for _, equal in ties):
        return -1, 0
    for start, equal in sorted(ties):
        if left <= equal:
            return start, left
        left -= equal
    return -1, 0


def _against(block: Inside, limits: Limits, value: float) -> tuple[int, int]:
    """How many entries of a block are larger than ``value``, which is one of its limits or lies
    between them, and how many are equal.
    """
    low, high = limits
    if value == high:
        return block.above, block.at_high
    if value == low:
        return block.above + block.at_high + int(block.repeats.sum()), block.at_low
    larger = int(block.repeats[block.values > value].sum())
    equal = int(block.repeats[block.values == value].sum())
    return block.above + block.at_high + larger, equal


def _last_tie(magnitudes: np.ndarray, value: float, count: int) -> int:
    """One more than the position of the ``count``-th entry equal to ``value``; 0 for count 0."""
    return int(np.flatnonzero(magnitudes == value)[count - 1]) + 1 if count else 0


def _end_of_ties(magnitudes: np.ndarray, value: float, rank: int) -> float:
    """The cut for the ``rank`` largest of a whole tensor's magnitudes."""
    count = rank - int(np.count_nonzero(magnitudes > value))
    if rank <= 0 or count >= int(np.count_nonzero(magnitudes == value)):
        return math.inf
    return _last_tie(magnitudes, value, count)


def estimate(parts: Sequence[SampledMagnitudes], column: int, ranks: Sequence[int]) -> list[Limits]:
    """Limits between which the magnitudes of these ranks very likely lie.

    Their width follows from how much runs of neighbouring entries differ.
    """
    size = sum(part.size for part in parts)
    values = np.concatenate([part.vectors[column] for part in parts])
    if len(parts) == 1:
        weight = size / values.size
        values, places = np.sort(values)[::-1], weight * np.arange(1, values.size + 1)
    else:
        shares = [part.size / part.vectors[column].size for part in parts]
        order = np.argsort(values)[::-1]
        weights = np.repeat(shares, [part.vectors[column].size for part in parts])
        values, places, weight = values[order], np.cumsum(weights[order]), max(shares)

    def at(place: float) -> float:
        return float(values[min(int(np.searchsorted(places, place)), len(values) - 1)])

    limits = []
    for rank in ranks:
        if rank <= 0 or rank >= size:
            limits.append((math.inf, math.inf) if rank <= 0 else (0.0, 0.0))
            continue
        error = _DEVIATIONS * _deviation(parts, column, at(rank)) + 4 * weight
        low, high = rank + error, rank - error
        limits.append((at(low) if low < size else 0.0, at(high) if high > 0 else math.inf))
    return limits


def _deviation(parts: Sequence[SampledMagnitudes], column: int, value: float) -> float:
    """Standard deviation of the estimated number of entries above ``value``."""
    variance = 0.0
    for part in parts:
        vector = part.vectors[column]
        runs = vector.size // _RUN
        if vector.size < part.size and runs > 1:
            shares = np.mean(vector[: runs * _RUN].reshape(runs, _RUN) >= value, axis=1)
            variance += part.size**2 * float(np.var(shares, ddof=1)) / runs
    return math.sqrt(variance)


def inside(xp: Any, x: Array, limits: Limits, start: int = 0) -> Inside:
    """How the magnitudes ``x`` of a block from position ``start`` lie to ``limits``."""
    low, high = limits
    size = int(x.shape[0])
    above = _true(x > high)
    not_below = x >= high
    at_high = _true(not_below) - above
    if low == high:
        return Inside(size, above, at_high, np.array([]), np.array([], dtype=np.int64), 0, start)
    over = x > low
    at_low = _true(x >= low) - _true(over)
    over ^= not_below
    values = _chosen(x, over)
    if values.size > size // 8:
        values, repeats = np.unique(values, return_counts=True)
    else:
        repeats = np.ones(values.size, dtype=np.int64)
    return Inside(size, above, at_high, values, repeats, at_low, start)


def pick(blocks: Sequence[Inside], limits: Limits, rank: int) -> float | None:
    """The ``rank``-th largest magnitude; None where it lies outside the limits."""
    if rank <= 0 or rank >= sum(block.size for block in blocks):
        return math.inf if rank <= 0 else 0.0
    low, high = limits
    at_high = rank - sum(block.above for block in blocks)
    within = at_high - sum(block.at_high for block in blocks)
    if at_high <= 0 or within <= 0:
        return high if at_high > 0 else None
    repeats = np.concatenate([block.repeats for block in blocks])
    at_low = within - int(repeats.sum())
    if at_low > 0:
        return low if at_low <= sum(block.at_low for block in blocks) else None
    values = np.concatenate([block.values for block in blocks])
    if int(repeats.max()) == 1:
        return _ranked(values, within)
    order = np.argsort(values)[::-1]
    return float(values[order][np.searchsorted(np.cumsum(repeats[order]), within)])


def _ranked(values: np.ndarray, rank: int) -> float:
    if rank <= 0 or rank > values.size:
        return math.inf if rank <= 0 else 0.0
    # Partitioning is many times slower than sorting where values repeat, as they do in 16 bits.
    return float(np.sort(values)[values.size - rank])


def _chosen(x: Array, mask: Array) -> np.ndarray:
    if isinstance(x, np.ndarray):
        return np.compress(mask, x)
    return _host(x[mask])


def _upper_bits(x: Array) -> np.ndarray:
    """Exponent and first five bits of each magnitude as one integer, which keeps their order."""
    return _host(x).astype(np.float64).view(np.int64) >> _LOWER_BITS


def _bin_of(counts: np.ndarray, rank: int) -> Limits:
    """Smallest and largest magnitude of the bin that holds the ``rank``-th largest."""
    from_top = np.cumsum(counts[::-1])
    if rank <= 0 or rank >= int(from_top[-1]):
        return (math.inf, math.inf) if rank <= 0 else (0.0, 0.0)
    place = len(counts) - 1 - int(np.searchsorted(from_top, rank))
    ends = np.array([place << _LOWER_BITS, ((place + 1) << _LOWER_BITS) - 1], dtype=np.int64)
    low, high = ends.view(np.float64).tolist()
    return low, high


def _true(mask: Array) -> int:
    """How many are true."""
    return int(np.count_nonzero(mask) if isinstance(mask, np.ndarray) else mask.sum())


def _host(x: Array) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else np.asarray(x.cpu())
