"""LiNeS: scale task vectors by the depth of their layer, least near the input.

``lines+NAME``, for instance ``lines+ties``, does the same to the result of another method.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from stockpot.merging.method import (
    Array,
    Block,
    Largest,
    Pass,
    PerModel,
    Real,
    Statistics,
    merge_method,
)
from stockpot.merging.methods._deltas import add_consensus, scale_by
from stockpot.merging.methods._on_top import updates_changed_by

ALPHA = Real("alpha", 0.3, help="factor of the first layer and of tensors outside the layers")
BETA = Real("beta", 0.7, help="what the last layer's factor has more")
_NUMBER = re.compile(r"(?:^|\.)(\d+)\.")


def layer_of(name: str) -> int | None:
    """Layer number in a tensor's name: its first whole number (``model.layers.3.mlp`` -> 3)."""
    found = _NUMBER.search(name)
    return int(found.group(1)) if found else None


def _deepest(block: Block, **_: Any) -> dict[str, Largest]:
    layer = layer_of(block.name)
    return {"last_layer": Largest(np.array([-1 if layer is None else layer]))}


def _number(statistics: Statistics, tensor: Any, **_: Any) -> Statistics:
    statistics["last_layer"] = int(statistics["last_layer"][0])
    return statistics


DEPTH = Pass(_deepest, _number, "model", sample=32)


def factor(block: Block, alpha: float, beta: float) -> float:
    """``alpha + beta l / (L - 1)`` for layer l of L; alpha for tensors outside the layers."""
    layer, last = layer_of(block.name), block.statistics["last_layer"]
    return alpha + beta * (layer / last) if layer and last > 0 else alpha


def _scaled(block: Block, update: Array, *, alpha: float, beta: float) -> Array:
    scale_by(update, factor(block, alpha, beta))
    return update


SOURCE = "Wang et al. 2025, LiNeS, arXiv 2410.17146"


@merge_method(
    "lines",
    title="LiNeS (layer-increasing scaling)",
    formula="theta_0 + (alpha + beta l/(L-1)) sum_i w_i tau_i, l: layer, 0 ... L-1",
    source=SOURCE,
    base="required",
    passes=(DEPTH,),
    on_top=updates_changed_by(
        "lines",
        _scaled,
        title="scaled by LiNeS",
        formula="theta_0 + (alpha + beta l/(L-1)) update",
        source=SOURCE,
        parameters=(ALPHA, BETA),
        passes=(DEPTH,),
    ),
    parameters=(ALPHA, BETA, PerModel(Real("weights", 1.0), help="weight of each task vector")),
)
def lines(block: Block, *, alpha: float, beta: float, weights: list[float]) -> Array:
    return add_consensus(
        block,
        block.deltas,
        weights=weights,
        scale=factor(block, alpha, beta),
        consensus="sum",
    )
