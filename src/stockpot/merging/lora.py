"""Merge LoRA adapters in factored form: the true sum of their updates, at a chosen rank.

Averaging the factors (A with A, B with B) adds cross terms ``B_i A_j`` that belong to no
adapter. Here
factors are concatenated, which is exact: ``sum_i w_i s_i B_i A_i = [w_i s_i B_i] [A_i]``, and
then cut to the rank by the SVD of the product, found from two thin QR decompositions at the cost
of the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import write_checkpoint
from stockpot.checkpoints.dtypes import Array
from stockpot.checkpoints.lora import Adapter, Factors, read_adapter
from stockpot.errors import CheckpointError, InputError, OutputError
from stockpot.files import atomic_folder, write_json
from stockpot.merging.parameters import PerModel, Real
from stockpot.provenance import Parent, Record, versions, write_card, write_record

_WEIGHTS = PerModel(Real("weights", 1.0), help="weight of each adapter's update")


def merge_adapters(
    adapters: Sequence[str | Path],
    output: str | Path,
    *,
    rank: int | None = None,
    weights: Any = None,
) -> dict[str, float]:
    """Write ``sum_i w_i s_i B_i A_i`` of PEFT adapter folders as an adapter of rank ``rank``.

    Args:
        adapters: folders of plain LoRA adapters of one base.
        output: the new folder; PEFT loads it.
        rank: None keeps the sum exact (the sum of the ranks).
        weights: one number an adapter, or one for all; default 1, the sum.

    Returns:
        For each adapted module the relative error of the cut, ||cut - sum|| / ||sum|| (Frobenius).

    Raises:
        CheckpointError: no plain LoRA adapters, or of different models.
        OutputError: the output exists or cannot be written.
    """
    folders = [Path(adapter) for adapter in adapters]
    if not folders:
        raise InputError("no adapters to merge")
    shares = _WEIGHTS.check(1.0 if weights is None else weights, len(folders))
    assert isinstance(shares, list)
    read = [read_adapter(folder) for folder in folders]
    if Path(output).exists():
        raise OutputError(f"{output} exists already", hint="choose another name")
    exact = sum(max((f.right.shape[0] for f in a.factors.values()), default=0) for a in read)
    kept = exact if rank is None else rank
    tensors: dict[str, Array] = {}
    errors: dict[str, float] = {}
    for module in dict.fromkeys(module for adapter in read for module in adapter.factors):
        pairs = [
            (w, a.factors[module]) for w, a in zip(shares, read, strict=True) if module in a.factors
        ]
        up, down, errors[module] = cut_sum(_same_shape(pairs, module), kept)
        tensors |= _named(read, module, up, down)
    for adapter in read:
        if adapter.replaced:
            name = next(iter(adapter.replaced))
            raise CheckpointError(
                f"{adapter.folder} replaces '{name}' as a whole, which no factors can express",
                hint="merge the adapters with their base instead (without --rank)",
            )
    _write(Path(output), read, shares, tensors, kept)
    return errors


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


def _named(read: Sequence[Adapter], module: str, up: Array, down: Array) -> dict[str, Array]:
    """Factors under PEFT's names, in PEFT's layout."""
    first = next(adapter for adapter in read if module in adapter.factors)
    if first.config.get("fan_in_fan_out"):
        up, down = down.T, up.T
    prefix = f"base_model.model.{module}"
    return {
        f"{prefix}.lora_A.weight": np.ascontiguousarray(down, dtype=np.float32),
        f"{prefix}.lora_B.weight": np.ascontiguousarray(up, dtype=np.float32),
    }


def _write(
    output: Path,
    read: Sequence[Adapter],
    weights: Sequence[float],
    tensors: dict[str, Array],
    rank: int,
) -> None:
    config = dict(read[0].config)
    targets = {
        target
        for adapter in read
        for target in (adapter.config.get("target_modules") or [])
        if isinstance(adapter.config.get("target_modules"), list)
    }
    config |= {
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "inference_mode": True,
    }
    if targets:
        config["target_modules"] = sorted(targets)
    parents = tuple(
        Parent(name=f"./{adapter.folder.resolve().name}", digest="", weight=weight)
        for adapter, weight in zip(read, weights, strict=True)
    )
    record = Record(
        kind="adapter",
        name=output.name,
        parents=parents,
        recipe={"method": "sum of updates", "rank": rank, "weights": list(weights)},
        versions=versions(),
    )
    with atomic_folder(output) as folder:
        write_checkpoint(folder / "adapter_model.safetensors", tensors)
        write_json(folder / "adapter_config.json", config)
        write_record(folder, record)
        write_card(folder, record, library_name="peft")
