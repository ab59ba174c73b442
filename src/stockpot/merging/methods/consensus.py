"""TALL masks and Consensus merging: keep the entries that matter to at least two tasks.

An entry matters to task t where its own change outweighs what the other tasks add there:
``|tau_t| > cut |sum_j tau_j - tau_t|``. ``packed.py`` stores these masks to give each task its own
model back.
"""

from __future__ import annotations

from typing import Any

from stockpot.merging.method import Array, Block, Integer, PerModel, Real, merge_method, sum_arrays
from stockpot.merging.methods._deltas import SCALE, scale_by

CUT = PerModel(
    Real("cut", 0.4, 0.0, closed="left"),
    help="how far a task must outweigh the others; the paper tunes 0.2 to 0.6",
)


def tall_mask(xp: Any, delta: Array, total: Array, cut: float) -> Array:
    """Where ``delta`` outweighs ``cut`` times the rest of ``total`` (boolean, same shape)."""
    rest = xp.abs(total - delta)
    rest *= cut
    return xp.abs(delta) > rest


@merge_method(
    "consensus",
    title="Consensus task arithmetic (TALL masks)",
    formula="theta_0 + scale [at least `minimum` of |tau_i| > cut |tau - tau_i|] tau, "
    "tau = sum_i tau_i",
    source="Wang et al. 2024, Localizing task information, arXiv 2405.07813",
    base="required",
    parameters=(
        CUT,
        Integer("minimum", 2, 1, 10_000, help="number of tasks an entry must matter to"),
        SCALE,
    ),
)
def consensus(block: Block, *, cut: list[float], minimum: int, scale: float) -> Array:
    xp, deltas = block.xp, block.deltas
    total = xp.asarray(deltas[0], copy=True)
    for delta in deltas[1:]:
        total += delta
    votes = sum_arrays(
        xp.astype(tall_mask(xp, delta, total, each), xp.int32)
        for delta, each in zip(deltas, cut, strict=True)
    )
    total *= votes >= minimum
    scale_by(total, scale)
    total += block.base
    return total
