"""Core Space: any merge method on LoRA updates, at the size of their ranks.

The left factors of all adapters side by side have an orthonormal basis U, the right ones, stacked,
a basis V (both by singular values). Every update is ``U core V^T`` exactly, its core no larger than
the sum of the ranks. A method merges the cores as it would merge weights, the base being zero, and
the bases bring the result back. For methods that add up this is the merge of the whole updates; the
others see directions instead of entries.

Source: Panariello et al. 2025, Accurate and efficient low-rank model merging in Core Space,
arXiv 2509.17786.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stockpot.checkpoints.adapters import Factors
from stockpot.checkpoints.dtypes import Array
from stockpot.errors import MethodError
from stockpot.merging.extraction import cut
from stockpot.merging.merge import merge
from stockpot.merging.method import get_method

Modules = Mapping[str, Sequence[Factors | None]]


def merged_cores(
    modules: Modules,
    method: str,
    parameters: Mapping[str, Any],
    rank: int | None = None,
    error: float | None = None,
) -> dict[str, tuple[Array, Array, float]]:
    """Factors (rows, r) and (r, columns) of each module's merged update, float64, and the relative
    error of the cut to ``rank`` or ``error``.

    ``modules``: the factors of every adapter, None where it leaves the module alone (a zero
    update).

    Raises ``MethodError`` for a method that needs more than updates.
    """
    declared = get_method(method)
    if declared.extras or declared.granularity == "model":
        problem = "reads statistics of whole weights" if declared.extras else "packs several models"
        raise MethodError(
            f"method '{method}' {problem}, which no adapter holds",
            hint="merge whole models: no --rank",
        )
    count = len(next(iter(modules.values())))
    bases = {module: reference_bases(factors) for module, factors in modules.items()}
    cores: list[dict[str, Array]] = [
        {
            f"{module}.weight": core(factors[model], *bases[module])
            for module, factors in modules.items()
        }
        for model in range(count)
    ]
    zero = {name: np.zeros_like(value) for name, value in cores[0].items()}
    base = None if declared.base == "none" else zero
    merged = merge(cores, method=method, base=base, hash_parents=False, **parameters).state
    updates = {}
    for module, (left, right) in bases.items():
        value = np.asarray(merged[f"{module}.weight"], dtype=np.float64)
        up, down, miss = cut(value, rank, error)
        updates[module] = (left @ up, down @ right, miss)
    return updates


def reference_bases(factors: Sequence[Factors | None]) -> tuple[Array, Array]:
    """U (rows, k) and V^T (l, columns), orthonormal, that hold all updates; k and l are the sum of
    the ranks, or the size of the matrix where that is smaller.
    """
    given = [f for f in factors if f is not None]
    left, _, _ = np.linalg.svd(np.concatenate([f.left for f in given], axis=1), full_matrices=False)
    _, _, right = np.linalg.svd(np.concatenate([f.right for f in given]), full_matrices=False)
    return left, right


def core(factors: Factors | None, left: Array, right: Array) -> Array:
    """``U^T update V`` (k, l) of one adapter."""
    if factors is None:
        return np.zeros((left.shape[1], len(right)))
    product: Array = (left.T @ factors.left) @ (factors.right @ right.T)
    return factors.scale * product
