"""A state in memory (numpy arrays or torch tensors) as a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.dtypes import STORAGE, Array, code_of
from stockpot.checkpoints.header import TensorInfo
from stockpot.errors import CheckpointError

_TORCH_CODES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
    "torch.float8_e8m0fnu": "F8_E8M0",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint64": "U64",
    "torch.uint32": "U32",
    "torch.uint16": "U16",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
_PLAIN_TENSORS = ("Tensor", "Parameter", "Buffer")
_TORCH_NAMES = {code: name.removeprefix("torch.") for name, code in _TORCH_CODES.items()}


class MemoryCheckpoint(Checkpoint):
    """Weights in memory. Non-contiguous tensors are copied when read; nothing is changed.

    Raises ``CheckpointError`` for values that are no dense arrays of a known type.
    """

    def __init__(self, state: Mapping[str, Any], *, label: str = "state in memory") -> None:
        tensors = {}
        for name, value in state.items():
            code = dtype_code(value)
            if code is None:
                raise CheckpointError(
                    f"{label}: '{name}' is {kind_of(value)}, expected an array of numbers",
                    hint="give the state_dict of the model",
                )
            tensors[name] = TensorInfo(name, tuple(int(n) for n in value.shape), code)
        super().__init__(tensors, label=label)
        self._state = state

    @property
    def holds_torch(self) -> bool:
        """Whether a tensor in it is torch's."""
        return any(map(is_torch, self._state.values()))

    def raw(self, name: str) -> Array:
        info = self.info(name)
        return storage_array(self._state[name], info.dtype).reshape(-1)


def is_torch(value: Any) -> bool:
    """Whether ``value`` is a torch tensor, without importing torch."""
    return type(value).__module__.split(".")[0] == "torch" or hasattr(value, "detach")


def dtype_code(value: Any) -> str | None:
    """Safetensors code of an array or a dense torch tensor with data; None for anything else."""
    if isinstance(value, np.ndarray):
        return code_of(value)
    if is_torch(value) and hasattr(value, "layout") and kind_of(value) == str(value.dtype):
        return _TORCH_CODES.get(str(value.dtype))
    return None


def kind_of(value: Any) -> str:
    """What a value is, for messages: its dtype, or what is special about it."""
    dtype = str(getattr(value, "dtype", type(value).__name__))
    if not is_torch(value) or not hasattr(value, "layout"):
        return dtype
    if "strided" not in str(value.layout):
        return f"a {str(value.layout).removeprefix('torch.')} tensor of {dtype}"
    if value.device.type == "meta":
        return "a meta tensor, which has no data"
    if type(value).__name__ not in _PLAIN_TENSORS:
        return f"a {type(value).__name__} of {dtype}"
    return dtype


def storage_array(value: Any, code: str) -> Array:
    """Contiguous numpy array of the stored bits of an array or a torch tensor, in its shape."""
    if isinstance(value, np.ndarray):
        native = value.astype(value.dtype.newbyteorder("="), copy=False)
        return np.ascontiguousarray(native).reshape(value.shape)
    tensor = value.detach().cpu().resolve_neg().contiguous()
    if code in ("BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0"):
        torch = sys.modules["torch"]
        bits = torch.int16 if code == "BF16" else torch.uint8
        return np.asarray(tensor.view(bits).numpy()).view(STORAGE[code])
    return np.asarray(tensor.numpy())


def torch_dtype(code: str) -> Any:
    """The torch dtype of a safetensors code."""
    import torch

    return getattr(torch, _TORCH_NAMES[code])


def torch_tensor(stored: Array, code: str) -> Any:
    """A torch tensor over the memory of a storage array (writable, C-contiguous), in its shape."""
    import torch

    if code == "BF16":
        return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16)
    if code.startswith("F8"):
        return torch.from_numpy(stored).view(getattr(torch, _TORCH_NAMES[code]))
    return torch.from_numpy(stored)
