"""mergekit's SCE and RAM: task vectors joined by what their entries say of each other.

See ``mergekit_deltas.py`` for names and ``arithmetic``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stockpot.merging.method import Array, Block, Flag, Real, merge_method, sum_arrays
from stockpot.merging.methods._deltas import sum_of
from stockpot.merging.methods.mergekit_deltas import ARITHMETIC, rounded

_TINY_SHARE = 1e-6


def elected(xp: Any, deltas: Sequence[Array]) -> list[Array]:
    """1 where an entry has the sign of the sum over models (+ where that is zero), else 0."""
    positive = sum_of(deltas) >= 0
    return [xp.astype(xp.where(positive, delta > 0, delta < 0), delta.dtype) for delta in deltas]


def _first(block: Block, x: Array, count: int) -> Array:
    """1 at the ``count`` largest magnitudes of a whole tensor (equal ones: the first), else 0."""
    flat = np.asarray(x if isinstance(x, np.ndarray) else x.cpu()).reshape(-1)
    mask = np.zeros(flat.size, dtype=np.float32)
    mask[np.argsort(-np.abs(flat), kind="stable")[:count]] = 1.0
    return block.like(mask.reshape(tuple(x.shape)))


@merge_method(
    "mergekit:sce",
    title="SCE (select, calculate, erase)",
    formula="theta_0 + sum_i e_i s_i tau'_i / sum_i e_i s_i, s_i ~ mean tau'_i^2",
    source="Wan et al. 2024, FuseChat, arXiv 2408.07990",
    base="required",
    granularity="tensor",
    parameters=(
        Flag("int8_mask", False, help="how mergekit stores a mask; changes nothing"),
        Real("select_topk", 1.0, help="share of the positions that differ, by variance"),
        ARITHMETIC,
    ),
)
def sce(block: Block, *, int8_mask: bool, select_topk: float, arithmetic: str) -> Array:
    xp = block.xp
    deltas = [rounded(xp, delta, arithmetic) for delta in block.deltas]
    if select_topk < 1:
        mean = sum_arrays(delta + 0.0 for delta in deltas) / len(deltas)
        variance = sum_arrays((delta - mean) ** 2 for delta in deltas) / len(deltas)
        variance = rounded(xp, variance, arithmetic)
        count = max(int(int(xp.sum(variance != 0)) * select_topk), 0)
        mask = _first(block, variance, count)
        deltas = [delta * mask for delta in deltas]
    agreeing = elected(xp, deltas)
    squares = [float(xp.mean(xp.astype(delta, xp.float64) ** 2)) for delta in deltas]
    total = sum(squares)
    shares = [square / total if total >= _TINY_SHARE else 1 / len(deltas) for square in squares]
    erased = [agrees * share for agrees, share in zip(agreeing, shares, strict=True)]
    merged = sum_arrays(delta * share for delta, share in zip(deltas, erased, strict=True))
    divisor = sum_arrays(erased)
    divisor = xp.where(divisor < _TINY_SHARE, _TINY_SHARE, divisor)
    return block.base + merged / divisor


_THRESHOLD = Real("epsilon", 1e-5, help="entries up to this size count as unchanged")


def _ram(block: Block, epsilon: float, arithmetic: str, factor: Callable[..., float]) -> Array:
    """What one model changed is added as it is, times a factor; what several changed, averaged."""
    xp = block.xp
    deltas = [rounded(xp, delta, arithmetic) for delta in block.deltas]
    changed = [xp.astype(xp.abs(delta) > epsilon, delta.dtype) for delta in deltas]
    count = sum_arrays(mask + 0.0 for mask in changed)
    alone, divisor = count == 1, xp.where(count > 1, count, 1.0)
    total: Array = block.base
    for delta, mask in zip(deltas, changed, strict=True):
        own = float(xp.sum(xp.astype(mask * alone, xp.float64)))
        shared = float(xp.sum(xp.astype(mask, xp.float64))) - own
        total = total + delta * mask * xp.where(alone, factor(shared, own), 1.0) / divisor
    return total


@merge_method(
    "mergekit:ram",
    title="RAM (reinforced agent merging)",
    formula="theta_0 + sum_i tau_i where one model changed, mean_i tau_i where several did",
    source="Reinforced Agent Merging, arXiv 2601.13572",
    base="required",
    granularity="tensor",
    parameters=(_THRESHOLD, ARITHMETIC),
)
def ram(block: Block, *, epsilon: float, arithmetic: str) -> Array:
    return _ram(block, epsilon, arithmetic, lambda shared, own: 1.0)


@merge_method(
    "mergekit:ramplus_tl",
    title="RAM+ (tensor by tensor)",
    formula="as RAM; what one model changed times 1 + r min(shared_i / own_i, alpha)",
    source="Reinforced Agent Merging, arXiv 2601.13572",
    base="required",
    granularity="tensor",
    parameters=(
        Real("r", 0.1, help="how much unique changes are strengthened"),
        Real("alpha", 0.2, help="largest ratio of shared to unique changes"),
        _THRESHOLD,
        ARITHMETIC,
    ),
)
def ramplus_tl(block: Block, *, r: float, alpha: float, epsilon: float, arithmetic: str) -> Array:
    def factor(shared: float, own: float) -> float:
        return 1.0 + r * min(max(shared / max(own, epsilon), 0.0), alpha)

    return _ram(block, epsilon, arithmetic, factor)
