"""Fisher merging: each weight averaged by how much each model's loss depends on it.

Reads one ``fisher`` file a model (see ``stockpot.merging.statistics``): the diagonal of its Fisher
information, a tensor for each tensor. Where it is zero in all models, the plain weighted mean.
"""

from __future__ import annotations

from stockpot.errors import MethodError
from stockpot.merging.method import Array, Block, PerModel, Real, merge_method
from stockpot.merging.methods.linear import average, shares


@merge_method(
    "fisher",
    title="Fisher-weighted averaging",
    formula="sum_i w_i F_i theta_i / sum_i w_i F_i",
    source="Matena and Raffel 2022, Merging models with Fisher-weighted averaging, "
    "arXiv 2111.09832",
    base="none",
    extras=("fisher",),
    parameters=(PerModel(Real("weights", 1.0, 0.0, closed="left"), help="weight of each model"),),
)
def fisher(block: Block, *, weights: list[float]) -> Array:
    xp = block.xp
    information = [block.extra("fisher", model) for model in range(block.count)]
    missing = [model for model, found in enumerate(information) if found is None]
    if len(missing) == block.count:
        return average(block.models, shares(weights))
    if missing:
        raise MethodError(
            f"the fisher file of model {missing[0] + 1} lacks tensor '{block.name}'",
            hint="collect the statistics of all models in the same way",
        )
    first, *others = block.models
    importance = [
        xp.astype(found, first.dtype) * weight
        for found, weight in zip(information, weights, strict=True)
    ]
    divisor = importance[0]
    for each in importance[1:]:
        divisor = divisor + each
    unknown = divisor == 0
    some = bool(xp.any(unknown))
    divisor += unknown
    plain = shares(weights)
    for other, each, share in zip(others, importance[1:], plain[1:], strict=True):
        other -= first
        each /= divisor
        if some:
            each = xp.where(unknown, xp.full_like(each, share), each)
        other *= each
    for other in others:
        first += other
    return first
