"""PyTorch's pickled checkpoints (.pt, .bin, .pth), read with ``weights_only`` so that no code
runs.
"""

from __future__ import annotations

import pickle
import re
import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stockpot.checkpoints.archive import GROWTH, SPARE, can_be_mapped, is_archive
from stockpot.checkpoints.memory import MemoryCheckpoint, dtype_code, is_torch, kind_of
from stockpot.checkpoints.safetensors_file import read_index, shard_path
from stockpot.errors import CheckpointError, UnsafeFileError
from stockpot.extras import require

NESTED_KEYS = ("state_dict", "model", "model_state_dict", "module", "net", "weights", "params")
_TRAINING = ("optim", "lr_sched", "sched", "scaler", "rng", "callbacks", "loops", "args", "hyper")
_AVERAGED = re.compile(r"(^|[._])(ema|averaged|avg|shadow)([._]|$)", re.IGNORECASE)
_SHARD_NAME = re.compile(r"[^/\\:\0]+\.(bin|pt|pth)")


class PickleCheckpoint(MemoryCheckpoint):
    """Weights of PyTorch files, memory-mapped where the format allows it."""

    def __init__(self, state: Mapping[str, Any], *, label: str, path: Path) -> None:
        super().__init__(state, label=label)
        self.path = path


def open_pickle(path: Path, label: str, key: str | None = None) -> PickleCheckpoint:
    """Open a PyTorch file, or the table called ``key`` in it. Raises ``UnsafeFileError`` for one
    that holds code.
    """
    return PickleCheckpoint(read_pickle(path, key), label=label, path=path)


def open_sharded_pickle(index: Path, label: str) -> PickleCheckpoint:
    """Open the shards that a ``pytorch_model.bin.index.json`` lists."""
    weight_map = read_index(index)
    state: dict[str, Any] = {}
    for shard in dict.fromkeys(weight_map.values()):
        for name, tensor in read_pickle(shard_path(index, shard, _SHARD_NAME)).items():
            if weight_map.get(name) != shard:
                raise CheckpointError(f"{index} does not place '{name}' in {shard}, which holds it")
            state[name] = tensor
    missing = [name for name in weight_map if name not in state]
    if missing:
        raise CheckpointError(f"{index} lists '{missing[0]}', which no shard holds")
    return PickleCheckpoint(state, label=label, path=index.parent)


def read_pickle(path: Path, key: str | None = None) -> dict[str, Any]:
    """The state dict of a PyTorch file: names -> torch tensors on the CPU.

    Training checkpoints are unwrapped through the keys ``NESTED_KEYS``; entries that are no tensors
    (epoch, optimizer, ...) are left out. Compressed records are read through, not mapped.
    Raises ``CheckpointError`` for a tensor of a kind that cannot be kept, and for tensors that are
    out of proportion to their file.
    """
    require("torch", f"reading {path}")
    import torch

    try:
        mapped = is_archive(path) and can_be_mapped(path)
        # Settings of a script (timm's checkpoints) are a table of names and values, no code.
        with warnings.catch_warnings(), torch.serialization.safe_globals([Namespace]):
            # What torch warns of here (odd protocols, TorchScript) ends in an error or in weights.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except CheckpointError:
        raise
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise _refused(path, error) from None
    except (OSError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} is no PyTorch checkpoint: {reason}") from None
    except (AssertionError, ArithmeticError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(f"{path} is no PyTorch checkpoint: {reason}") from None
    if key is not None:
        if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping):
            named = [str(k) for k, v in content.items() if isinstance(v, Mapping)]
            raise CheckpointError(
                f"{path} holds no table '{key}'", hint=f"its tables: {', '.join(named) or 'none'}"
            )
        content = content[key]
    state = unwrap(content, path)
    _check_proportions(state, path)
    return state


def _check_proportions(state: Mapping[str, Any], path: Path) -> None:
    """Refuse tensors that repeat a few bytes of the file over and over."""
    limit = max(SPARE, GROWTH * path.stat().st_size)
    total = 0
    for name, tensor in state.items():
        total += tensor.numel() * tensor.element_size()
        if total > limit:
            raise CheckpointError(
                f"{path}: with '{name}', {list(tensor.shape)}, its tensors have {total:,} bytes: "
                f"more than {GROWTH} times the file and {SPARE:,} bytes, the limit"
            )


def unwrap(content: Any, path: Path) -> dict[str, Any]:
    """The tensors of a loaded object, found through the usual nesting."""
    for _ in range(4):
        if not isinstance(content, Mapping):
            break
        nested = next((key for key in NESTED_KEYS if isinstance(content.get(key), Mapping)), None)
        _refuse_ambiguous(content, nested, path)
        if nested is None:
            state = _tensors(content, path)
            if state:
                return state
            break
        content = content[nested]
    raise CheckpointError(
        f"{path} holds no table of tensors",
        hint=f"looked at the top and under {', '.join(NESTED_KEYS)}",
    )


def _refuse_ambiguous(content: Mapping[Any, Any], nested: str | None, path: Path) -> None:
    """Refuse shares of tensors, and averaged weights beside plain ones: which is meant?"""
    module = content.get("module") if content.get("param_shapes") else None
    parts = list(module.values()) if isinstance(module, Mapping) else []
    if not all(tensor.numel() for tensor in parts if is_torch(tensor)):
        raise CheckpointError(
            f"{path} is DeepSpeed's (ZeRO 3): its tensors lie in the files of the ranks",
            hint="python zero_to_fp32.py FOLDER model, the script that lies beside it",
        )
    tables = [str(key) for key, value in content.items() if isinstance(value, Mapping)]
    averaged = [key for key in tables if _AVERAGED.search(key)]
    if averaged and nested is not None:
        raise CheckpointError(
            f"{path} holds plain weights ('{nested}') and averaged ones ('{averaged[0]}')",
            hint=f"name one table: {path}::{nested} or {path}::{averaged[0]}",
        )


def _tensors(content: Mapping[Any, Any], path: Path) -> dict[str, Any]:
    """The tensors among some entries. Those that cannot be kept are refused by name."""
    state: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key)
        if dtype_code(value) is not None:
            if name in state:
                raise CheckpointError(f"{path} holds two tensors called '{name}'")
            state[name] = value
        elif is_torch(value):
            raise CheckpointError(f"{path}: '{name}' is {kind_of(value)}, which cannot be kept")
    lost = [str(key) for key, value in content.items() if state and _hides_tensors(key, value)]
    if lost:
        raise CheckpointError(
            f"{path}: '{lost[0]}' holds tensors in a table of its own, which would be left out",
            hint="save one table of tensors",
        )
    return state


def _hides_tensors(key: Any, value: Any, depth: int = 3) -> bool:
    """Whether an entry of a state dict has tensors in it that are no optimizer's."""
    if str(key).startswith(_TRAINING) or not depth:
        return False
    if isinstance(value, Mapping):
        return any(is_torch(v) or _hides_tensors(k, v, depth - 1) for k, v in value.items())
    if isinstance(value, list | tuple):
        return any(is_torch(v) or _hides_tensors("", v, depth - 1) for v in value)
    return False


def _refused(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    if "TorchScript" in text:
        hint = "load it where you trust it and save its state_dict"
        return UnsafeFileError(f"{path} is a TorchScript program", hint=hint)
    if isinstance(error, pickle.UnpicklingError) and re.search(r"GLOBAL|global|REDUCE|class", text):
        what = re.search(r"(GLOBAL|global:?) ([\w.]+)", text)
        hint = "save the model's state_dict, or convert it to safetensors where you trust it"
        return UnsafeFileError(
            f"{path} would run code when read{f' ({what.group(2)})' if what else ''}", hint=hint
        )
    reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return CheckpointError(f"{path} is no PyTorch checkpoint: {reason}")
