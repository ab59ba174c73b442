"""DARE: drop entries at random and divide the others by the probability to be kept.

The factor is 1/p exactly, so that the expectation is the task vector itself. Which entries stay
depends on seed, tensor name, model number and position alone: not on the order of work.
"""

from __future__ import annotations

from stockpot.merging.method import Array, Block, merge_method
from stockpot.merging.methods._deltas import CONSENSUS, SCALE, WEIGHTS, add_consensus, density


@merge_method(
    "dare",
    title="DARE (drop and rescale)",
    formula="theta_0 + scale sum_i w_i m_i tau_i / p, m_i ~ Bernoulli(p)",
    source="Yu et al. 2024, Language models are super Mario, arXiv 2311.03099",
    base="required",
    random=True,
    parameters=(density(0.5, "probability p of an entry to be kept"), WEIGHTS, SCALE, CONSENSUS),
)
def dare(
    block: Block, *, density: list[float], weights: list[float], scale: float, consensus: str
) -> Array:
    deltas = block.deltas
    for number, (delta, keep) in enumerate(zip(deltas, density, strict=True)):
        if keep < 1.0:
            delta *= block.uniform(number) < keep
            delta /= keep
    return add_consensus(block, deltas, weights=weights, scale=scale, consensus=consensus)
