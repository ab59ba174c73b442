"""One accelerator for the device and precision that a run asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from stockpot.errors import InputError
from stockpot.memory import keep_all_freed_memory

if TYPE_CHECKING:
    from accelerate import Accelerator  # type: ignore[import-untyped,unused-ignore]


def best_device(device: str | None = None) -> torch.device:
    """The GPU when there is one, unless ``device`` says "cpu"."""
    if device != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    keep_all_freed_memory()
    return torch.device("cpu")


def check_precision(precision: str, device: str | None = None) -> None:
    """``InputError`` for fp16 without a GPU, or where ``device`` says "cpu"."""
    if precision == "fp16" and best_device(device).type == "cpu":
        raise InputError("precision: fp16 needs a GPU", hint="use bf16 or no")


def make_accelerator(precision: str, device: str | None = None) -> Accelerator:
    """An ``accelerate.Accelerator`` on the GPU when there is one, or where ``device`` says "cpu".

    The library keeps one precision per process; here runs of several may follow each other.
    Raises ``InputError`` for fp16 without a GPU.
    """
    from accelerate import Accelerator
    from accelerate.state import (  # type: ignore[import-untyped,unused-ignore]
        AcceleratorState,
        PartialState,
    )

    check_precision(precision, device)
    cpu = best_device(device).type == "cpu"
    shared: dict[str, Any] = PartialState._shared_state
    if shared:
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=cpu, mixed_precision=precision)
