"""EMR and TALL masks: one model and a few bits from which each task's own model is unpacked.

The result holds, under the base's names, a unified model that loads as any other; beside it, for
each task, one bit an entry (``emr.TASK.NAME``, uint8) and, for EMR, a factor (``emr.rescale``).
``unpack`` gives a task's weights back: the base, and the unified task vector under the task's mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from stockpot.errors import InputError
from stockpot.merging.method import Array, Choice, Models, merge_method
from stockpot.merging.methods._deltas import elected_signs
from stockpot.merging.methods.consensus import CUT, tall_mask

_KINDS = ("emr", "tall")


@merge_method(
    "emr",
    title="EMR (elect, mask, rescale)",
    formula="theta_0 + l_t M_t u; u = s max_i |tau_i| of those with sign s = sign(sum_i tau_i), "
    "M_t = [tau_t s > 0], l_t = sum|tau_t| / sum|M_t u|",
    source="Huang et al. 2024, EMR-Merging, arXiv 2405.17461",
    base="required",
    granularity="model",
    parameters=(
        Choice(
            "rescale",
            "sums",
            ("sums", "means"),
            help="l_t from sums over the model (paper) or from sums of each tensor's mean "
            "(the authors' code)",
        ),
    ),
)
def emr(models: Models, *, rescale: str) -> dict[str, Array]:
    packed: dict[str, Array] = {}
    own: list[list[float]] = [[] for _ in range(models.count)]
    unified: list[list[float]] = [[] for _ in range(models.count)]
    for tensor in models.tensors:
        block = models.read(tensor.name)
        xp, deltas = block.xp, block.deltas
        signs = elected_signs(xp, deltas, -1)
        largest = xp.zeros_like(signs)
        divisor = max(tensor.size, 1) if rescale == "means" else 1
        for task, delta in enumerate(deltas):
            own[task].append(_sum(xp, xp.abs(delta)) / divisor)
            delta *= signs
            largest = xp.maximum(largest, delta)
        for task, delta in enumerate(deltas):
            mask = delta > 0
            packed[f"emr.{task}.{tensor.name}"] = pack_bits(mask)
            unified[task].append(_sum(xp, largest * mask) / divisor)
        largest *= signs
        largest += block.base
        packed[tensor.name] = largest
    sizes = [math.fsum(each) for each in unified]
    packed["emr.rescale"] = np.array(
        [math.fsum(a) / b if b > 0 else 0.0 for a, b in zip(own, sizes, strict=True)]
    )
    return packed


@merge_method(
    "tall",
    title="TALL masks",
    formula="theta_0 + m_t sum_i tau_i, m_t = [|tau_t| > cut |sum_i tau_i - tau_t|]",
    source="Wang et al. 2024, Localizing task information, arXiv 2405.07813",
    base="required",
    granularity="model",
    parameters=(CUT,),
)
def tall(models: Models, *, cut: list[float]) -> dict[str, Array]:
    packed: dict[str, Array] = {}
    for tensor in models.tensors:
        block = models.read(tensor.name)
        xp, deltas = block.xp, block.deltas
        total = xp.asarray(deltas[0], copy=True)
        for delta in deltas[1:]:
            total += delta
        for task, (delta, each) in enumerate(zip(deltas, cut, strict=True)):
            packed[f"tall.{task}.{tensor.name}"] = pack_bits(tall_mask(xp, delta, total, each))
        total += block.base
        packed[tensor.name] = total
    return packed


def pack_bits(mask: Array) -> np.ndarray:
    """A boolean array as bits, uint8 (ceil(size / 8),), the first element in the lowest bit."""
    host = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask)
    return np.packbits(host.reshape(-1), bitorder="little")


def tasks(packed: Mapping[str, Any]) -> int:
    """Number of tasks in a packed state. Raises ``InputError`` where it is none."""
    numbers = {
        int(parts[1])
        for name in packed
        if (parts := name.split(".", 2))[0] in _KINDS and len(parts) == 3 and parts[1].isdigit()
    }
    if not numbers:
        raise InputError(
            "these weights hold no task masks",
            hint="unpack what the methods 'emr' or 'tall' have written",
        )
    return max(numbers) + 1


def unpack(
    packed: Mapping[str, np.ndarray], base: Mapping[str, np.ndarray], task: int
) -> dict[str, np.ndarray]:
    """Weights of one task, in the shapes and dtypes of ``base`` (float arrays).

    Tensors without a mask are taken from ``packed`` as they are. Raises ``InputError`` for a task
    that is not there.
    """
    count = tasks(packed)
    if not 0 <= task < count:
        raise InputError(f"task {task}: the packed weights hold tasks 0 to {count - 1}")
    kind = next(kind for kind in _KINDS if any(name.startswith(f"{kind}.") for name in packed))
    factor = float(packed["emr.rescale"][task]) if kind == "emr" else 1.0
    state = {}
    for name, weights in packed.items():
        if name.split(".", 1)[0] in _KINDS:
            continue
        bits = packed.get(f"{kind}.{task}.{name}")
        if bits is None or name not in base:
            state[name] = weights
            continue
        origin = base[name]
        mask = np.unpackbits(bits, count=origin.size, bitorder="little").reshape(origin.shape)
        wide = origin.astype(np.float64)
        state[name] = (wide + factor * mask * (weights - wide)).astype(origin.dtype)
    return state


def _sum(xp: Any, x: Array) -> float:
    return float(xp.sum(xp.astype(x, xp.float64)))
