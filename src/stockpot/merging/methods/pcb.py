"""PCB: parameter competition balancing.

Each entry's weight is the product of its own size among the entries of its task vector (intra) and
of its agreement with the other tasks (inter). The entries with the largest product are kept, each
weighted by how far it lies above the threshold. Entries on which the tasks disagree (negative
product) are dropped.
"""

from __future__ import annotations

from typing import Any

from stockpot.merging.method import Array, Block, Choice, Pass, Real, merge_method
from stockpot.merging.methods._deltas import SCALE, kept, scale_by
from stockpot.merging.selection import threshold_passes


def _limit_ranks(size: int, *, clip: float, **_: Any) -> list[int]:
    outliers = min(int(clip * size), (size - 1) // 2)
    return [outliers + 1, size - outliers]


def _balance_ranks(size: int, *, density: float, **_: Any) -> list[int]:
    return [1, kept(size, density)]


def _vectors(block: Block, **_: Any) -> list[Array]:
    return block.deltas


def _clipped(xp: Any, delta: Array, limits: Any) -> Array:
    """Magnitudes with the few largest and smallest set to the next one."""
    high, low = (float(limit) for limit in limits)
    return xp.clip(xp.abs(delta), low, high)


def balances(block: Block, **_: Any) -> list[Array]:
    """Intra times inter balance of every entry, at least 0: one array for each model."""
    xp, deltas = block.xp, block.deltas
    total = deltas[0] + deltas[1] if block.count > 1 else xp.asarray(deltas[0], copy=True)
    for delta in deltas[2:]:
        total += delta
    found = []
    for delta, limits in zip(deltas, block.statistics["limits"], strict=True):
        high, low = (float(limit) for limit in limits)
        size = _clipped(xp, delta, limits)
        size -= low
        if high > low:
            size /= high - low
        balance = xp.exp(size * size * float(block.count))
        balance *= xp.tanh(delta * total)
        balance *= balance > 0
        found.append(balance)
    return found


def _passes(parameters: dict[str, Any]) -> tuple[Pass, ...]:
    scope = parameters["scope"]
    return (
        *threshold_passes(_vectors, _limit_ranks, name="limits", scope=scope),
        *threshold_passes(balances, _balance_ranks, name="balance", scope=scope),
    )


@merge_method(
    "pcb",
    title="PCB (parameter competition balancing)",
    formula="theta_0 + scale sum_i b_i tau_i / sum_i b_i, "
    "b = largest of exp(k norm(|tau_i|)^2) tanh(tau_i sum_j tau_j), rescaled to [0, 1]",
    source="Du et al. 2024, Parameter competition balancing, arXiv 2410.02396",
    base="required",
    passes=_passes,
    parameters=(
        Real("density", 0.1, 0.0, 1.0, closed="right", help="share of the entries that are kept"),
        Real("clip", 1e-4, 0.0, 0.4, help="share of the largest and smallest that are clipped"),
        SCALE,
        Choice(
            "scope", "tensor", ("tensor", "model"), help="what is ranked together (paper: model)"
        ),
    ),
)
def pcb(block: Block, *, density: float, clip: float, scale: float, scope: str) -> Array:
    xp, deltas = block.xp, block.deltas
    total: Array = None
    divisor: Array = None
    for delta, balance, limits, (largest, threshold) in zip(
        deltas,
        balances(block),
        block.statistics["limits"],
        block.statistics["balance"],
        strict=True,
    ):
        if largest > threshold:
            balance -= float(threshold)
            balance *= balance > 0
            balance /= float(largest) - float(threshold)
        else:
            balance *= 0.0
        term = xp.sign(delta) * _clipped(xp, delta, limits)
        term *= balance
        total = term if total is None else total + term
        divisor = balance if divisor is None else divisor + balance
    divisor += divisor == 0
    total /= divisor
    scale_by(total, scale)
    total += block.base
    return total
