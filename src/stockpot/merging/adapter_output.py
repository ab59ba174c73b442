"""A LoRA adapter on disk, as PEFT writes and reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import write_checkpoint
from stockpot.checkpoints.dtypes import Array
from stockpot.files import atomic_folder, write_json
from stockpot.provenance import Parent, Record, versions, write_card, write_record

ROOT = "base_model.model."
"""What PEFT puts before the name of a module."""


def named_factors(
    module: str,
    up: Array,
    down: Array,
    *,
    embedding: bool = False,
    kernel: Sequence[int] = (),
) -> dict[str, Array]:
    """``up`` (outputs, r) and ``down`` (r, inputs) under PEFT's names and in its layout.

    ``kernel``: of a convolution, whose ``down`` is (r, channels * kernel).
    """
    if kernel:
        down = down.reshape(len(down), -1, *kernel)
        up = up.reshape(*up.shape, *(1 for _ in kernel))
    ends = ("embedding_A", "embedding_B") if embedding else ("A.weight", "B.weight")
    return {
        f"{ROOT}{module}.lora_{end}": np.ascontiguousarray(value, dtype=np.float32)
        for end, value in zip(ends, (down, up), strict=True)
    }


def write_adapter_folder(
    output: Path,
    tensors: Mapping[str, Array],
    ranks: Mapping[str, int],
    *,
    base: str | None,
    parents: Sequence[Parent],
    recipe: Mapping[str, Any],
    **settings: Any,
) -> None:
    """Write factors whose product is the update as a PEFT folder, whole or not at all.

    ``ranks``: by module. ``settings``: further keys of ``adapter_config.json``.
    """
    most = max(ranks.values())
    other = {re.escape(module): rank for module, rank in ranks.items() if rank != most}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "task_type": None,
        "inference_mode": True,
        "r": most,
        "lora_alpha": most,
        "lora_dropout": 0.0,
        "rank_pattern": other,
        "alpha_pattern": dict(other),
        "target_modules": sorted(ranks),
        "init_lora_weights": True,
        **settings,
    }
    record = Record(
        kind="adapter",
        name=output.name,
        parents=tuple(parents),
        recipe=dict(recipe),
        versions=versions(),
    )
    with atomic_folder(output) as folder:
        write_checkpoint(folder / "adapter_model.safetensors", dict(tensors))
        write_json(folder / "adapter_config.json", config)
        write_record(folder, record)
        write_card(folder, record, library_name="peft")
