"""RegMean: the linear layer whose outputs are nearest to those of all models on their own inputs.

Reads one ``gram`` file a model (see ``stockpot.merging.statistics``): X^T X of the inputs of each
linear layer, (in, in), under the name of its weight (out, in). Other tensors get the plain weighted
mean.
"""

from __future__ import annotations

from stockpot.errors import MethodError
from stockpot.merging.method import Array, Block, PerModel, Real, merge_method
from stockpot.merging.methods._matrices import identity, wide
from stockpot.merging.methods.linear import average, shares


@merge_method(
    "regmean",
    title="RegMean",
    formula="(sum_i w_i G_i)^-1 sum_i w_i G_i theta_i, G_i = X_i^T X_i, off-diagonal times shrink",
    source="Jin et al. 2023, Dataless knowledge fusion, arXiv 2212.09849",
    base="none",
    granularity="tensor",
    extras=("gram",),
    parameters=(
        PerModel(Real("weights", 1.0, 0.0, closed="left"), help="weight of each model"),
        Real("shrink", 0.9, 0.0, 1.0, help="factor of the off-diagonal inner products"),
        Real(
            "ridge", 1e-6, 0.0, 1.0, closed="neither", help="added to the diagonal, times its mean"
        ),
    ),
)
def regmean(block: Block, *, weights: list[float], shrink: float, ridge: float) -> Array:
    xp = block.xp
    grams = [block.extra("gram", model) for model in range(block.count)]
    missing = [model for model, found in enumerate(grams) if found is None]
    if len(missing) == block.count:
        return average(block.models, shares(weights))
    if missing:
        raise MethodError(
            f"the gram file of model {missing[0] + 1} lacks tensor '{block.name}'",
            hint="collect the statistics of all models in the same way",
        )
    columns = block.tensor.rows[1]
    first, *others = (wide(xp, xp.reshape(model, block.tensor.rows)) for model in block.models)
    weights = shares(weights)
    one = identity(xp, first)
    total = xp.zeros_like(one)
    moved = xp.zeros_like(first)
    for model, (gram, weight) in enumerate(zip(grams, weights, strict=True)):
        gram = wide(xp, gram)
        if tuple(gram.shape) != (columns, columns):
            raise MethodError(
                f"the gram file of model {model + 1} has shape {tuple(gram.shape)} for tensor "
                f"'{block.name}', expected {(columns, columns)}",
                hint="it belongs to another architecture",
            )
        diagonal = gram * one
        gram = shrink * gram + (1.0 - shrink) * diagonal
        size = float(xp.sum(diagonal)) / columns
        gram = weight * (gram + (ridge * size if size > 0 else 1.0) * one)
        total += gram
        if model:
            moved += (others[model - 1] - first) @ gram
    if not others:
        return block.models[0]
    step = xp.matrix_transpose(xp.linalg.solve(total, xp.matrix_transpose(moved)))
    return xp.astype(xp.reshape(first + step, block.tensor.shape), block.models[0].dtype)
