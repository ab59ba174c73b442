"""Task arithmetic: add the task vectors to the base."""

from __future__ import annotations

from stockpot.merging.method import Array, Block, PerModel, Real, merge_method
from stockpot.merging.methods._deltas import add_consensus


@merge_method(
    "task_arithmetic",
    title="Task arithmetic",
    formula="theta_0 + scale sum_i w_i tau_i",
    source="Ilharco et al. 2023, Editing models with task arithmetic, arXiv 2212.04089, section 2",
    base="required",
    parameters=(
        Real(
            "scale", 1.0, help="scaling coefficient; the paper tunes it, 0.3 is usual for 8 tasks"
        ),
        PerModel(
            Real("weights", 1.0), help="weight of each task vector; negative to forget a task"
        ),
    ),
    spreads_nonfinite=True,
)
def task_arithmetic(block: Block, *, scale: float, weights: list[float]) -> Array:
    return add_consensus(block, block.each_delta(), weights=weights, scale=scale, consensus="sum")
