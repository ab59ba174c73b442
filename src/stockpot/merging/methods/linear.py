"""Linear: weighted average of the weights (model soup)."""

from __future__ import annotations

from collections.abc import Iterable

from stockpot.errors import MethodError
from stockpot.merging.method import Array, Block, Flag, PerModel, Real, merge_method


@merge_method(
    "linear",
    title="Weighted average (model soup)",
    formula="sum_i w_i theta_i / sum_i w_i",
    source="Wortsman et al. 2022, Model soups, arXiv 2203.05482",
    base="none",
    parameters=(
        PerModel(Real("weights", 1.0), help="weight of each model"),
        Flag("normalize", True, help="divide by the sum of the weights"),
    ),
    spreads_nonfinite=True,
)
def linear(block: Block, *, weights: list[float], normalize: bool) -> Array:
    return average(block.each_model(), shares(weights) if normalize else weights)


def shares(weights: list[float]) -> list[float]:
    """Weights divided by their sum. Raises ``MethodError`` where that is zero."""
    total = sum(weights)
    if total == 0:
        raise MethodError(
            f"parameter 'weights': {weights} add up to zero",
            hint="give other weights, or normalize: false",
        )
    return [weight / total for weight in weights]


def average(models: Iterable[Array], weights: list[float]) -> Array:
    """``sum_i w_i x_i`` as ``x_0 sum_i w_i + sum_i w_i (x_i - x_0)``; overwrites ``models``.

    Written so, equal models give exactly themselves, and close ones lose no digits. A plain mean
    divides the sum: means of 16-bit numbers are often half way between two of them, which a
    product with 1/3 would miss.
    """
    others = iter(models)
    first = next(others)
    total = sum(weights)
    plain = len(set(weights)) == 1 and abs(total - 1.0) < 1e-12
    sum_of_differences: Array = None
    for model, weight in zip(others, weights[1:], strict=True):
        model -= first
        if not plain:
            model *= weight
        if sum_of_differences is None:
            sum_of_differences = model
        else:
            sum_of_differences += model
    if abs(total - 1.0) > 1e-12:
        first *= total
    if sum_of_differences is not None:
        if plain:
            sum_of_differences /= len(weights)
        first += sum_of_differences
    return first
