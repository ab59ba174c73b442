"""Blocks on a torch device: stored bits are uploaded, widened, combined and rounded there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from stockpot.checkpoints import Checkpoint
from stockpot.errors import InputError
from stockpot.extras import require
from stockpot.merging.block import Array
from stockpot.merging.numpy_backend import NumpyBackend

_BITS = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


class TorchBackend(NumpyBackend):
    """One worker's blocks as tensors of a device."""

    block = 1 << 24
    """A device wants large pieces: 16 million elements, 64 MB as float32."""

    def __init__(self, device: str) -> None:
        super().__init__()
        import array_api_compat.torch as torch_namespace
        import torch

        self.xp = torch_namespace
        self._torch = torch
        self._device = torch.device(device)

    def load(
        self,
        source: Checkpoint,
        name: str,
        start: int,
        stop: int,
        dtype: np.dtype[Any],
        place: int,
    ) -> Array:
        if type(source).decode is not Checkpoint.decode:
            return self.upload(super().load(source, name, start, stop, dtype, place))
        code = source.info(name).dtype
        stored = self.upload(source.raw(name)[start:stop])
        if code in _BITS:
            stored = stored.view(getattr(self._torch, _BITS[code]))
        values = stored.to(getattr(self._torch, dtype.name))
        # A block is the method's to overwrite; a view of a mapped file is not.
        return values.clone() if values is stored else values

    def upload(self, array: np.ndarray) -> Array:
        plain = array.view(np.int16) if array.dtype == np.uint16 else array
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return self._torch.from_numpy(np.ascontiguousarray(plain)).to(self._device)

    def store(self, values: Array, code: str, out: np.ndarray) -> None:
        if isinstance(values, np.ndarray):
            super().store(values, code, out)
        elif code == "BF16" and values.dtype == self._torch.float64:
            # torch would round twice, by way of float32.
            super().store(values.cpu().numpy(), code, out)
        else:
            rounded = values.to(getattr(self._torch, _DTYPES[code])).reshape(-1)
            bits = rounded.view(self._torch.int16) if code == "BF16" else rounded
            out[:] = bits.cpu().numpy().view(out.dtype)


def torch_backend(device: str) -> Callable[[], NumpyBackend]:
    """Maker of backends for a torch device. Raises ``InputError`` where there is none such."""
    require("torch", f"device '{device}'")
    import torch

    name = device.removeprefix("torch-")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"device '{device}' cannot be used: {reason}", hint="try cpu") from None
    return partial(TorchBackend, name)
