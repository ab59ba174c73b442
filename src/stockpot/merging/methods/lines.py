"""LiNeS: scale task vectors by the depth of their layer, least near the input.

``scaled_by_depth`` puts the same scaling on top of any other method; such a method is called
``lines+NAME``, for instance ``lines+ties``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from stockpot.errors import MethodError
from stockpot.merging.method import (
    Array,
    Block,
    Largest,
    Method,
    Pass,
    PerModel,
    Real,
    Statistics,
    merge_method,
)
from stockpot.merging.methods._deltas import add_consensus, scale_by

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


def scaled_by_depth(method: Method) -> Method:
    """``method`` with LiNeS on top: ``theta_0 + factor(layer) (merged - theta_0)``.

    Raises ``MethodError`` for methods that pack several models into one, and for those that have
    an ``alpha`` or ``beta`` of their own (LiNeS itself).
    """
    own = {parameter.name for parameter in method.parameters}
    if method.granularity == "model" or not own.isdisjoint((ALPHA.name, BETA.name)):
        raise MethodError(
            f"LiNeS cannot scale what method '{method.name}' makes",
            hint="scale the models before, or choose another method",
        )

    def without(parameters: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in parameters.items() if key not in ("alpha", "beta")}

    def wrapped(step: Pass) -> Pass:
        return replace(
            step,
            reduce=lambda block, **parameters: step.reduce(block, **without(parameters)),
            finish=lambda statistics, tensor, **parameters: step.finish(
                statistics, tensor, **without(parameters)
            ),
        )

    def combine(block: Block, **parameters: Any) -> Array:
        base = block.xp.asarray(block.base, copy=True)
        merged = method.combine(block, **without(parameters))
        merged -= base
        scale_by(merged, factor(block, parameters["alpha"], parameters["beta"]))
        merged += base
        return merged

    return replace(
        method,
        name=f"lines+{method.name}",
        combine=combine,
        title=f"{method.title}, scaled by LiNeS",
        formula=f"theta_0 + (alpha + beta l/(L-1)) (merged - theta_0), merged = {method.formula}",
        source=f"{method.source}; Wang et al. 2025, LiNeS, arXiv 2410.17146",
        base="required",
        parameters=(ALPHA, BETA, *method.parameters),
        granularity=lambda parameters: method.granularity_for(without(parameters)),
        passes=lambda parameters: (
            *(wrapped(step) for step in method.passes_for(without(parameters))),
            DEPTH,
        ),
    )


@merge_method(
    "lines",
    title="LiNeS (layer-increasing scaling)",
    formula="theta_0 + (alpha + beta l/(L-1)) sum_i w_i tau_i, l: layer, 0 ... L-1",
    source="Wang et al. 2025, LiNeS, arXiv 2410.17146",
    base="required",
    passes=(DEPTH,),
    on_top=scaled_by_depth,
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
