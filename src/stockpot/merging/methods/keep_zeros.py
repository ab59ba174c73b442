"""Keep zeros: pruned parents give a pruned result.

An average has a zero only where all parents have one, and methods on whole matrices have none at
all. ``keep_zeros+NAME`` sets entries of any method's result to zero where the parents were pruned.
Parents that were retrained from one pruned model share their zeros, and lose nothing by it.
"""

from __future__ import annotations

from typing import Any

from stockpot.merging.method import Array, Block, Choice, PerModel, Real, merge_method
from stockpot.merging.methods._on_top import Merge, on_top_of
from stockpot.merging.methods.linear import average, shares

ZEROS = Choice(
    "zeros",
    "all",
    ("all", "any", "first"),
    help="entries stay zero that are zero in all models, in any, or in the first",
)
SOURCE = "Zimmer et al. 2023, Sparse model soups, arXiv 2306.16788"


def kept(xp: Any, models: list[Array], zeros: str) -> Array:
    """Where the result may differ from zero (boolean)."""
    alive = models[0] != 0
    for model in models[1:] if zeros != "first" else ():
        alive = alive | (model != 0) if zeros == "all" else alive & (model != 0)
    return alive


def _masked(block: Block, merge: Merge, *, zeros: str) -> Array:
    mask = kept(block.xp, block.models, zeros)
    merged = merge(block)
    merged *= mask
    return merged


@merge_method(
    "keep_zeros",
    title="Weighted average that keeps zeros (sparse model soup)",
    formula="[some theta_i != 0] sum_i w_i theta_i / sum_i w_i",
    source=SOURCE,
    base="none",
    on_top=on_top_of(
        "keep_zeros",
        _masked,
        title="zeros kept",
        formula="[some theta_i != 0] merged",
        source=SOURCE,
        parameters=(ZEROS,),
    ),
    parameters=(ZEROS, PerModel(Real("weights", 1.0), help="weight of each model")),
)
def keep_zeros(block: Block, *, zeros: str, weights: list[float]) -> Array:
    mask = kept(block.xp, block.models, zeros)
    merged = average(block.models, shares(weights))
    merged *= mask
    return merged
