"""RAM and RAM+: task vectors of reinforcement learning, which are sparse and hardly overlap.

What one model alone changed is added whole, what several changed is averaged, so that a sparse
change is not divided by the number of models that left its entries alone. RAM+ strengthens what a
model changed alone by how much of its change it shares with others.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stockpot.merging.method import (
    Array,
    Block,
    Choice,
    Count,
    Pass,
    Real,
    Statistics,
    merge_method,
    sum_arrays,
)
from stockpot.merging.methods._deltas import scale_by

SOURCE = "Yuan et al. 2026, Behavior knowledge merge in reinforced agentic models, arXiv 2601.13572"
_EPSILON = Real("epsilon", 1e-5, 0.0, help="entries up to this size count as unchanged")


def changed(block: Block, epsilon: float) -> tuple[list[Array], Array]:
    """Where each model changed an entry, as 0 and 1, and how many models did."""
    xp, deltas = block.xp, block.deltas
    masks = [xp.astype(xp.abs(delta) > epsilon, delta.dtype) for delta in deltas]
    return masks, sum_arrays(mask + 0.0 for mask in masks)


def _overlap(block: Block, *, epsilon: float, **_: Any) -> dict[str, Count]:
    xp = block.xp
    masks, count = changed(block, epsilon)
    alone = [int(xp.sum(xp.astype(mask * (count == 1), xp.float64))) for mask in masks]
    shared = [int(xp.sum(xp.astype(mask * (count > 1), xp.float64))) for mask in masks]
    return {"overlap": Count(np.array([alone, shared]))}


def _factors(
    statistics: Statistics, tensor: Any, *, rescale: float, limit: float, **_: Any
) -> Statistics:
    """``1 + rescale * min(shared / alone, limit)`` for each model."""
    alone, shared = statistics["overlap"]
    pairs = zip(alone.tolist(), shared.tolist(), strict=True)
    statistics["factors"] = [1.0 + rescale * min(b / max(a, 1), limit) for a, b in pairs]
    return statistics


def _merged(block: Block, epsilon: float, factors: list[float]) -> Array:
    xp = block.xp
    masks, count = changed(block, epsilon)
    alone = xp.astype(count == 1, count.dtype)
    total, shared = xp.zeros_like(count), xp.zeros_like(count)
    for delta, mask, factor in zip(block.deltas, masks, factors, strict=True):
        delta *= mask
        own = delta * alone
        delta -= own
        shared += delta
        scale_by(own, factor)
        total += own
    count += count == 0
    shared /= count
    total += shared
    total += block.base
    return total


@merge_method(
    "ram",
    title="RAM (reinforced agent merging)",
    formula="theta_0 + tau_i where |tau_i| > epsilon for one model alone, + the mean of those that "
    "are where several are",
    source=SOURCE,
    base="required",
    parameters=(_EPSILON,),
)
def ram(block: Block, *, epsilon: float) -> Array:
    return _merged(block, epsilon, [1.0] * block.count)


@merge_method(
    "ram_plus",
    title="RAM+ (reinforced agent merging, rescaled)",
    formula="as ram; what model i changed alone times 1 + rescale min(shared_i / alone_i, limit), "
    "shared_i, alone_i: how many entries it changed with others, and alone",
    source=SOURCE,
    base="required",
    passes=lambda parameters: (Pass(_overlap, _factors, parameters["scope"]),),
    report=("factors",),
    parameters=(
        _EPSILON,
        Real("rescale", 0.1, 0.0, help="how much unique changes are strengthened"),
        Real("limit", 0.2, 0.0, help="largest ratio of shared to unique changes that counts"),
        Choice("scope", "model", ("model", "tensor"), help="what is counted together"),
    ),
)
def ram_plus(block: Block, *, epsilon: float, rescale: float, limit: float, scope: str) -> Array:
    return _merged(block, epsilon, block.statistics["factors"])
