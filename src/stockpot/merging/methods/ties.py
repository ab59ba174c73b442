"""TIES: trim small entries, elect a sign for each position, merge those that agree with it.

Variants are named by parameters:

- ``scope="tensor"`` ranks the entries of each tensor by themselves (as mergekit and peft do),
  ``"model"`` those of the whole flattened model (as the authors' code does).
- ``sign_tie`` decides where the trimmed entries add up to exactly zero: ``"positive"`` (mergekit,
  peft) or ``"majority"``, the sign that most positions of the scope have (the authors' code).
- ``consensus="agreeing_mean"`` is the paper's disjoint mean, ``"agreeing_sum"`` the sum that the
  vision experiments use with a scale of 0.3.

Entries equal to the threshold are all kept, so the result does not depend on their order.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from stockpot.merging.method import Array, Block, Choice, Count, Pass, Statistics, merge_method
from stockpot.merging.methods._deltas import (
    SCALE,
    WEIGHTS,
    add_consensus,
    density,
    kept,
)
from stockpot.merging.selection import threshold_passes


def _vectors(block: Block, **_: Any) -> list[Array]:
    return block.deltas


def _ranks(size: int, *, density: list[float], **_: Any) -> list[int]:
    return [kept(size, share) for share in dict.fromkeys(density)]


def trimmed(block: Block, density: list[float]) -> list[Array]:
    """The task vectors with all entries below their threshold set to zero (in place)."""
    deltas = block.deltas
    column = {share: place for place, share in enumerate(dict.fromkeys(density))}
    for delta, share, row in zip(deltas, density, block.statistics["threshold"], strict=True):
        threshold = float(row[column[share]])
        if threshold > 0 and share < 1.0:
            delta *= block.xp.abs(delta) >= threshold
    return deltas


def _vote(block: Block, *, density: list[float], weights: list[float], **_: Any) -> dict[str, Any]:
    deltas = [
        delta * weight for delta, weight in zip(trimmed(block, density), weights, strict=True)
    ]
    total = sum(deltas[1:], deltas[0])
    positive, negative = block.xp.sum(total > 0), block.xp.sum(total < 0)
    return {"votes": Count(np.array([int(positive) - int(negative)]))}


def _majority(statistics: Statistics, tensor: Any, **_: Any) -> Statistics:
    statistics["majority"] = 1 if int(statistics.pop("votes")[0]) > 0 else -1
    return statistics


def _passes(parameters: dict[str, Any]) -> tuple[Pass, ...]:
    scope: Literal["tensor", "model"] = parameters["scope"]
    passes: tuple[Pass, ...] = threshold_passes(_vectors, _ranks, scope=scope)
    if parameters["sign_tie"] == "majority":
        passes += (Pass(_vote, _majority, scope),)
    return passes


@merge_method(
    "ties",
    title="TIES",
    formula="theta_0 + scale mean_i{tau'_i : sign(tau'_i) = sign(sum_j tau'_j)}, "
    "tau' = largest entries of tau",
    source="Yadav et al. 2023, TIES-Merging, arXiv 2306.01708, algorithm 1",
    base="required",
    passes=_passes,
    parameters=(
        density(0.2),
        WEIGHTS,
        SCALE,
        Choice("scope", "tensor", ("tensor", "model"), help="what is ranked together"),
        Choice(
            "consensus",
            "agreeing_mean",
            ("agreeing_mean", "agreeing_sum"),
            help="mean (disjoint mean) or sum of the entries that have the elected sign",
        ),
        Choice(
            "sign_tie",
            "positive",
            ("positive", "majority"),
            help="sign elected where the entries add up to zero",
        ),
    ),
    report=("threshold",),
)
def ties(
    block: Block,
    *,
    density: list[float],
    weights: list[float],
    scale: float,
    scope: str,
    consensus: str,
    sign_tie: str,
) -> Array:
    tie = block.statistics["majority"] if sign_tie == "majority" else 1
    return add_consensus(
        block,
        trimmed(block, density),
        weights=weights,
        scale=scale,
        consensus=consensus,
        tie=tie,
    )
