"""Merge LoRA adapters in factored form: the true sum of their updates, at a chosen rank.

Averaging the factors (A with A, B with B) adds cross terms ``B_i A_j`` that belong to no
adapter. Here
factors are concatenated, which is exact: ``sum_i w_i s_i B_i A_i = [w_i s_i B_i] [A_i]``, and
then cut to the rank by the SVD of the product, found from two thin QR decompositions at the cost
of the ranks.
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
from stockpot.merging.parameters import PerModel, Real
from stockpot.provenance import Parent

_WEIGHTS = PerModel(Real("weights", 1.0), help="weight of each adapter's update")


def merge_adapters(
    adapters: Sequence[str | Path],
    output: str | Path,
    *,
    rank: int | None = None,
    weights: Any = None,
    force: bool = False,
) -> dict[str, float]:
    """Write ``sum_i w_i s_i B_i A_i`` of PEFT adapter folders as an adapter of rank ``rank``.

    Args:
        adapters: folders of plain LoRA adapters of one base.
        output: the new folder; PEFT loads it.
        rank: None keeps the sum exact (the sum of the ranks).
        weights: one number an adapter, or one for all; default 1, the sum.
        force: merge adapters that name different bases.

    Returns:
        For each adapted module the relative error of the cut, ||cut - sum|| / ||sum|| (Frobenius).

    Raises:
        BaseMismatchError: adapters that name different bases.
        CheckpointError: adapters with more than factors, or of different models.
        OutputError: the output exists or cannot be written.
    """
    folders = [Path(adapter) for adapter in adapters]
    if not folders:
        raise InputError("no adapters to merge")
    shares = _WEIGHTS.check(1.0 if weights is None else weights, len(folders))
    assert isinstance(shares, list)
    read = [read_adapter(folder) for folder in folders]
    if not force:
        check_same_base(read)
    if Path(output).exists():
        raise OutputError(f"{output} exists already", hint="choose another name")
    for adapter in read:
        if adapter.replaced:
            name = next(iter(adapter.replaced))
            raise CheckpointError(
                f"{adapter.folder} replaces '{name}' as a whole, which no factors can express",
                hint="merge by a method: --method linear --base BASE",
            )
    exact = sum(max((f.right.shape[0] for f in a.factors.values()), default=0) for a in read)
    kept = exact if rank is None else rank
    tensors: dict[str, Array] = {}
    errors: dict[str, float] = {}
    for module in dict.fromkeys(module for adapter in read for module in adapter.factors):
        pairs = [
            (w, a.factors[module]) for w, a in zip(shares, read, strict=True) if module in a.factors
        ]
        up, down, errors[module] = cut_sum(_same_shape(pairs, module), kept)
        parts = _parts(read, module)
        kernel = parts["lora_A"].shape[2:] if "lora_A" in parts else ()
        embedding = "lora_embedding_A" in parts
        tensors |= named_factors(module, up, down, embedding=embedding, kernel=kernel)
    write_adapter_folder(
        Path(output),
        tensors,
        dict.fromkeys(errors, kept),
        base=next((a.settings.base for a in read if a.settings.base), None),
        parents=[
            Parent(name=f"./{adapter.folder.resolve().name}", digest="", weight=weight)
            for adapter, weight in zip(read, shares, strict=True)
        ],
        recipe={"method": "sum of updates", "rank": kept, "weights": list(shares)},
        fan_in_fan_out=any(adapter.settings.get("fan_in_fan_out") for adapter in read),
        ensure_weight_tying=any(adapter.settings.get("ensure_weight_tying") for adapter in read),
    )
    return errors


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


def cut_sum(pairs: Sequence[tuple[float, Factors]], rank: int) -> tuple[Array, Array, float]:
    """Best rank-``rank`` factors of ``sum_i w_i s_i left_i right_i``, float64, and their error.

    Returns left (rows, rank), right (rank, columns), zero-padded where the sum has a lower rank,
    and the relative Frobenius error. Source: Eckart and Young 1936.
    """
    left = np.concatenate([weight * f.scale * f.left for weight, f in pairs], axis=1)
    right = np.concatenate([f.right for _, f in pairs], axis=0)
    q_left, r_left = np.linalg.qr(left)
    q_right, r_right = np.linalg.qr(right.T)
    u, s, vt = np.linalg.svd(r_left @ r_right.T)
    keep = min(rank, len(s))
    root = np.sqrt(s[:keep])
    up = np.zeros((left.shape[0], rank))
    down = np.zeros((rank, right.shape[1]))
    up[:, :keep] = q_left @ (u[:, :keep] * root)
    down[:keep] = (root[:, None] * vt[:keep]) @ q_right.T
    whole = float(np.sqrt(np.sum(s**2)))
    error = float(np.sqrt(np.sum(s[keep:] ** 2))) / whole if whole else 0.0
    return up, down, error


def _same_shape(pairs: list[tuple[float, Factors]], module: str) -> list[tuple[float, Factors]]:
    shapes = {(f.left.shape[0], f.right.shape[1]) for _, f in pairs}
    if len(shapes) > 1:
        raise CheckpointError(
            f"the adapters change '{module}' in shapes {sorted(shapes)}",
            hint="they belong to different bases",
        )
    return pairs


def _parts(read: Sequence[Adapter], module: str) -> Mapping[str, Array]:
    return next(
        update.parts for adapter in read for update in adapter.updates if update.module == module
    )
