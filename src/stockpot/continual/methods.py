"""The methods of a comparison, as data: what each trains, and how it makes one prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Trains = Literal["tangent", "cross_entropy", "square", "tangent map", "random map", "plain map"]
Combine = Literal["delta", "weights", "outputs", "statistics", "means", "last", "first", "joint"]
Group = Literal["tangent", "statistics", "single", "ensemble", "joint"]


@dataclass(frozen=True)
class Strategy:
    """One row of the table.

    ``trains``: what is made for every task; ``combine``: how the tasks' results become one
    prediction; ``cost``: of one prediction, with K for the number of tasks.
    """

    name: str
    label: str
    group: Group
    trains: Trains
    combine: Combine
    cost: str


_ALL = (
    Strategy("tmc", "TMC, uniform", "tangent", "tangent", "delta", "1 jvp"),
    Strategy(
        "statistics",
        "Statistics",
        "statistics",
        "tangent map",
        "statistics",
        "1 + J gradients",
    ),
    Strategy("ranpac", "RanPAC (random features)", "statistics", "random map", "statistics", "1"),
    Strategy(
        "ranpac_first",
        "RanPAC, adapted to the first task",
        "statistics",
        "cross_entropy",
        "first",
        "1",
    ),
    Strategy("ridge", "Ridge on frozen features", "statistics", "plain map", "statistics", "1"),
    Strategy("simplecil", "SimpleCIL (class means)", "statistics", "plain map", "means", "1"),
    Strategy("soup", "Soup", "single", "cross_entropy", "weights", "1"),
    Strategy("soup_square", "Soup, square loss", "single", "square", "weights", "1"),
    Strategy("sequential", "Sequential fine-tuning", "single", "cross_entropy", "last", "1"),
    Strategy("ensemble", "Ensemble", "ensemble", "cross_entropy", "outputs", "K"),
    Strategy("ensemble_square", "Ensemble, square loss", "ensemble", "square", "outputs", "K"),
    Strategy("probe", "Joint, linear probe", "joint", "plain map", "joint", "1"),
    Strategy("joint_tangent", "Joint, tangent", "joint", "tangent", "joint", "1 jvp"),
    Strategy("joint", "Joint, non-linear", "joint", "cross_entropy", "joint", "1"),
)

METHODS: dict[str, Strategy] = {method.name: method for method in _ALL}
