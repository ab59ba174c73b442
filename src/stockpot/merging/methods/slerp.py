"""SLERP: along the great circle between two models, the weights of a tensor taken as one vector.

Small angles are no special case here: the formula has its limit, the straight line, by itself.
"""

from __future__ import annotations

from typing import Any

from stockpot.merging.method import (
    Array,
    Block,
    Pass,
    Real,
    Statistics,
    Total,
    merge_method,
)
from stockpot.merging.methods._sphere import (
    add_up,
    angle,
    difference_gram,
    differences,
    slerp_shares,
)


def _gram(block: Block, **_: Any) -> dict[str, Total]:
    return difference_gram(block, block.models)


def _shares(statistics: Statistics, tensor: Any, *, t: float) -> Statistics:
    omega, *_ = angle(statistics["gram"])
    first, second = slerp_shares(omega, t)
    return {"coefficients": (float(first), float(second)), "radians": float(omega)}


@merge_method(
    "slerp",
    title="SLERP (spherical interpolation)",
    formula="sin((1-t) omega)/sin(omega) theta_1 + sin(t omega)/sin(omega) theta_2, "
    "omega: angle between theta_1 and theta_2",
    source="Shoemake 1985, Animating rotation with quaternion curves",
    base="none",
    models=(2, 2),
    passes=(Pass(_gram, _shares),),
    parameters=(Real("t", 0.5, 0.0, 1.0, help="0 gives the first model, 1 the second"),),
    report=("radians", "coefficients"),
)
def slerp(block: Block, *, t: float) -> Array:
    return add_up(differences(block.models), block.statistics["coefficients"])
