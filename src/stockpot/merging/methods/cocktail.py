"""LM-Cocktail: weights from each model's loss on a few examples of the target task."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stockpot.merging.method import Array, Block, PerModel, Real, merge_method
from stockpot.merging.methods.linear import average


def cocktail_weights(losses: Sequence[float], temperature: float) -> list[float]:
    """``softmax(-loss_i / temperature)``; they add up to one."""
    least = min(losses)
    raw = [math.exp((least - loss) / temperature) for loss in losses]
    total = sum(raw)
    return [each / total for each in raw]


@merge_method(
    "cocktail",
    title="LM-Cocktail",
    formula="base_share theta_0 + (1 - base_share) sum_i softmax(-loss_i / temperature) theta_i",
    source="Xiao et al. 2023, LM-Cocktail, arXiv 2311.13534",
    base="optional",
    parameters=(
        PerModel(
            Real("losses", None, 0.0, closed="left"), help="loss of each model on the target task"
        ),
        Real("temperature", 1.0, 0.0, closed="neither", help="high: weights nearly equal"),
        Real("base_share", 0.0, 0.0, 1.0, help="share of the base (without a base: 0)"),
    ),
)
def cocktail(block: Block, *, losses: list[float], temperature: float, base_share: float) -> Array:
    weights = cocktail_weights(losses, temperature)
    if block.base is None or base_share == 0:
        return average(block.each_model(), weights)
    shares = [base_share, *((1 - base_share) * each for each in weights)]
    return average([block.base, *block.models], shares)
