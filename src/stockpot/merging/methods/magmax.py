"""MagMax: at each position, the entry of largest magnitude among the task vectors."""

from __future__ import annotations

from stockpot.merging.method import Array, Block, Real, merge_method
from stockpot.merging.methods._deltas import scale_by


@merge_method(
    "magmax",
    title="MagMax",
    formula="theta_0 + scale tau_{argmax_i |tau_i|}",
    source="Marczak et al. 2024, MagMax, arXiv 2407.06322",
    base="required",
    parameters=(Real("scale", 0.5, help="how much of the merged task vector is added"),),
)
def magmax(block: Block, *, scale: float) -> Array:
    xp = block.xp
    best, *others = block.deltas
    for delta in others:
        here, there = xp.abs(delta), xp.abs(best)
        # Of opposite entries of equal size the positive one: the order of the models is no matter.
        larger = (here > there) | ((here == there) & (delta > best))
        delta *= larger
        best *= ~larger
        best += delta
    scale_by(best, scale)
    best += block.base
    return best
