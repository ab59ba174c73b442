"""DELLA: drop at random, small entries more often, and divide each by its own probability to stay.

Within a row of n entries, the one of rank r (0: the largest) is kept with probability
``density + epsilon (1/2 - r/n)``, limited to [0, 1]. Entries of equal size are ranked by position.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.merging.method import Array, Block, Choice, Real, merge_method
from stockpot.merging.methods._deltas import SCALE, WEIGHTS, add_consensus, density


def keep_probabilities(xp: Any, magnitudes: Array, density: float, epsilon: float) -> Array:
    """Probability to be kept of each entry of ``magnitudes`` (rows, n), by its rank in its row;
    float64, because every entry is divided by it.
    """
    columns = int(magnitudes.shape[1])
    by_rank = np.clip(density + epsilon * (0.5 - np.arange(columns) / columns), 0.0, 1.0)
    if isinstance(magnitudes, np.ndarray):
        order = _descending(magnitudes)
        out = np.empty(magnitudes.shape)
        np.put_along_axis(out, order, by_rank[None, :], axis=1)
        return out
    order = xp.argsort(-magnitudes, axis=1, stable=True)
    rank = xp.argsort(order, axis=1, stable=True)
    table = xp.asarray(by_rank, dtype=xp.float64, device=magnitudes.device)
    return xp.reshape(xp.take(table, xp.reshape(rank, (-1,))), magnitudes.shape)


def _descending(magnitudes: np.ndarray) -> np.ndarray:
    """Stable order of each row, largest first. Numpy sorts integers that carry the position many
    times faster than it argsorts floats."""
    columns = magnitudes.shape[1]
    if magnitudes.dtype != np.float32 or columns >= 1 << 32:
        return np.argsort(-magnitudes, axis=1, kind="stable")
    keys = (~magnitudes.view(np.uint32)).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(columns, dtype=np.uint64)
    keys.sort(axis=1)
    keys &= np.uint64(0xFFFFFFFF)
    return keys.view(np.int64)


@merge_method(
    "della",
    title="DELLA (MagPrune)",
    formula="theta_0 + scale mean_i{m_i tau_i / p_i of the elected sign}, "
    "p_i = density + epsilon (1/2 - rank/n)",
    source="Deep et al. 2024, DELLA-Merging, arXiv 2406.11617",
    base="required",
    granularity="row",
    random=True,
    parameters=(
        density(0.5, "mean probability of an entry to be kept"),
        Real(
            "epsilon", 0.2, 0.0, 1.0, help="probability of the largest minus that of the smallest"
        ),
        WEIGHTS,
        SCALE,
        Choice(
            "consensus",
            "agreeing_mean",
            ("sum", "agreeing_mean", "agreeing_sum"),
            help="sum of all, or mean or sum of the entries that have the elected sign",
        ),
    ),
)
def della(
    block: Block,
    *,
    density: list[float],
    epsilon: float,
    weights: list[float],
    scale: float,
    consensus: str,
) -> Array:
    xp, deltas = block.xp, block.deltas
    for number, (delta, share) in enumerate(zip(deltas, density, strict=True)):
        probability = keep_probabilities(xp, xp.abs(delta), share, epsilon)
        delta *= block.uniform(number) < probability
        probability += probability == 0
        deltas[number] = xp.astype(delta, xp.float64) / probability
    return add_consensus(block, deltas, weights=weights, scale=scale, consensus=consensus)
