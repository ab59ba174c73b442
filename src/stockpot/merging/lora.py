"""Merge LoRA adapters in factored form: the true sum of their updates, at a chosen rank.

Averaging the factors (A with A, B with B) adds cross terms ``B_i A_j`` that belong to no
adapter. Here
factors are concatenated, which is exact: ``sum_i w_i s_i B_i A_i = [w_i s_i B_i] [A_i]``, and
then cut to the rank by the SVD of the product, found from two thin QR decompositions at the cost
of the ranks. A method works on the cores of the updates instead (see ``core_space.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints.adapters import Adapter, Factors, read_adapter
from stockpot.checkpoints.dtypes import Array
from stockpot.errors import BaseMismatchError, CheckpointError, InputError, OutputError
from stockpot.merging.adapter_output import named_factors, write_adapter_folder
from stockpot.merging.core_space import merged_cores
from stockpot.merging.extraction import cut
from stockpot.merging.parameters import PerModel, Real
from stockpot.provenance import Parent

_WEIGHTS = PerModel(Real("weights", 1.0), help="weight of each adapter's update")


def merge_adapters(
    adapters: Sequence[str | Path],
    output: str | Path,
    *,
    rank: int | None = None,
    error: float | None = None,
    method: str | None = None,
    weights: Any = None,
    base: str | None = None,
    force: bool = False,
    **parameters: Any,
) -> dict[str, float]:
    """Write PEFT adapter folders, merged in factored form, as an adapter of rank ``rank``.

    Args:
        adapters: folders of plain LoRA adapters of one base.
        output: the new folder; PEFT loads it.
        rank: None keeps the sum exact (the sum of the ranks).
        error: the largest relative error of a module, which chooses its rank; within ``rank``.
        method: None adds: ``sum_i w_i s_i B_i A_i``. A merge method works in Core Space, where it
            sees the updates as small matrices and the base as zero.
        weights: one number an adapter, or one for all; default 1, the sum. Of a method: its own.
        base: recorded as the base of the result where the adapters name none.
        force: merge adapters that name different bases.
        **parameters: of the method.

    Returns:
        For each adapted module the relative error of the cut, ||cut - sum|| / ||sum|| (Frobenius).

    Raises:
        BaseMismatchError: adapters that name different bases.
        CheckpointError: adapters with more than factors, or of different models.
        MethodError: a method that cannot work on cores, or a parameter outside its range.
        OutputError: the output exists or cannot be written.
    """
    folders = [Path(adapter) for adapter in adapters]
    if not folders:
        raise InputError("no adapters to merge")
    shares = _WEIGHTS.check(1.0 if weights is None or method else weights, len(folders))
    assert isinstance(shares, list)
    read = [read_adapter(folder) for folder in folders]
    if not force:
        check_same_base(read)
    if Path(output).exists():
        raise OutputError(f"{output} exists already", hint="choose another name")
    for adapter in read:
        if reason := more_than_factors(adapter):
            raise CheckpointError(reason, hint="merge by a method: --method linear --base BASE")
    if method is None:
        if parameters:
            raise InputError(f"adding adapters takes weights only, not {next(iter(parameters))}")
        updates = _sums(read, shares, rank, error)
        recipe: dict[str, Any] = {"method": "sum of updates", "weights": list(shares)}
    else:
        if weights is not None:
            parameters["weights"] = weights
        updates = merged_cores(by_module(read), method, parameters, rank, error)
        recipe = {"method": method, "space": "core", **parameters}
    tensors: dict[str, Array] = {}
    for module, (up, down, _) in updates.items():
        parts = _parts(read, module)
        kernel = parts["lora_A"].shape[2:] if "lora_A" in parts else ()
        embedding = "lora_embedding_A" in parts
        tensors |= named_factors(module, up, down, embedding=embedding, kernel=kernel)
    ranks = {module: up.shape[1] for module, (up, _, _) in updates.items()}
    write_adapter_folder(
        Path(output),
        tensors,
        ranks,
        base=next((a.settings.base for a in read if a.settings.base), base),
        parents=[
            Parent(name=f"./{adapter.folder.resolve().name}", digest="", weight=weight)
            for adapter, weight in zip(read, shares, strict=True)
        ],
        recipe={**recipe, "rank": max(ranks.values()) if rank is None else rank},
        fan_in_fan_out=any(adapter.settings.get("fan_in_fan_out") for adapter in read),
        ensure_weight_tying=any(adapter.settings.get("ensure_weight_tying") for adapter in read),
    )
    return {module: miss for module, (_, _, miss) in updates.items()}


def more_than_factors(adapter: Adapter) -> str | None:
    """Why an adapter cannot be merged in factored form; None where it can."""
    if adapter.replaced:
        name = next(iter(adapter.replaced))
        return f"{adapter.folder} replaces '{name}' as a whole, which no factors can express"
    try:
        _ = adapter.factors
    except CheckpointError as problem:
        return str(problem)
    return None


def _sums(
    read: Sequence[Adapter], shares: Sequence[float], rank: int | None, error: float | None
) -> dict[str, tuple[Array, Array, float]]:
    exact = sum(max((f.right.shape[0] for f in a.factors.values()), default=0) for a in read)
    updates = {}
    for module, factors in by_module(read).items():
        pairs = [(w, f) for w, f in zip(shares, factors, strict=True) if f is not None]
        updates[module] = cut_sum(pairs, exact if rank is None else rank, error)
    return updates


def by_module(read: Sequence[Adapter]) -> dict[str, list[Factors | None]]:
    """Of each adapted module the factors of every adapter, None where it leaves the module alone.

    Raises ``CheckpointError`` where their updates differ in shape.
    """
    own = [adapter.factors for adapter in read]
    modules = {module: [f.get(module) for f in own] for f in own for module in f}
    for module, factors in modules.items():
        shapes = {f.shape for f in factors if f is not None}
        if len(shapes) > 1:
            raise CheckpointError(
                f"the adapters change '{module}' in shapes {sorted(shapes)}",
                hint="they belong to different bases",
            )
    return modules


def check_same_base(adapters: Sequence[Adapter]) -> None:
    """Raise ``BaseMismatchError`` for adapters that name different bases, or revisions of one."""
    named = {adapter.settings.base: adapter for adapter in adapters if adapter.settings.base}
    if len(named) < 2:
        return
    (first, one), (second, other), *_ = named.items()
    if first is not None and second is not None and _same_place(first, second):
        return
    raise BaseMismatchError(
        f"{one.folder} was trained on {first}, {other.folder} on {second}",
        hint="merge adapters of one base; --force if both names are one model",
    )


def _same_place(first: str, second: str) -> bool:
    """Whether two names are one folder or file."""
    a, b = Path(first).expanduser(), Path(second).expanduser()
    return a.exists() and b.exists() and a.resolve() == b.resolve()


def cut_sum(
    pairs: Sequence[tuple[float, Factors]], rank: int, error: float | None = None
) -> tuple[Array, Array, float]:
    """Best rank-``rank`` factors of ``sum_i w_i s_i left_i right_i``, float64, and their error.

    Returns left (rows, rank), right (rank, columns), zero-padded where the sum has a lower rank,
    and the relative Frobenius error. With ``error`` the smallest rank that keeps it, not padded.
    Source: Eckart and Young 1936.
    """
    left = np.concatenate([weight * f.scale * f.left for weight, f in pairs], axis=1)
    right = np.concatenate([f.right for _, f in pairs], axis=0)
    q_left, r_left = np.linalg.qr(left)
    q_right, r_right = np.linalg.qr(right.T)
    small_up, small_down, miss = cut(r_left @ r_right.T, rank, error)
    keep = small_up.shape[1]
    width = rank if error is None else keep
    up = np.zeros((left.shape[0], width))
    down = np.zeros((width, right.shape[1]))
    up[:, :keep] = q_left @ small_up
    down[:keep] = small_down @ q_right.T
    return up, down, miss


def _parts(read: Sequence[Adapter], module: str) -> Mapping[str, Array]:
    return next(
        update.parts for adapter in read for update in adapter.updates if update.module == module
    )
