"""GGUF files (llama.cpp), read through the package ``gguf``. Names stay as they stand there."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints.dtypes import Array
from stockpot.checkpoints.encodings.values import Values
from stockpot.checkpoints.gguf_header import check_header
from stockpot.checkpoints.header import check_name
from stockpot.checkpoints.memory import MemoryCheckpoint
from stockpot.errors import CheckpointError
from stockpot.extras import require
from stockpot.reading import open_plain

_MAGIC = b"GGUF"


class GgufCheckpoint(MemoryCheckpoint):
    """A GGUF file as it is stored, memory-mapped: encoded tensors are bytes.

    Attributes:
        fields: what the file says of the model: architecture, hyper-parameters, tokenizer.
        encoded: type and true shape of each encoded tensor.
    """

    def __init__(self, path: Path, *, label: str) -> None:
        reader = _read(path)
        try:
            self.fields = {name: field.contents() for name, field in reader.fields.items()}
        except Exception as error:  # texts that are none
            raise CheckpointError(f"{path} is no GGUF file: {error}") from None
        super().__init__({tensor.name: tensor.data for tensor in reader.tensors}, label=label)
        self.path = path
        self.encoded = {
            tensor.name: (tensor.tensor_type, tuple(int(n) for n in reversed(tensor.shape)))
            for tensor in reader.tensors
            if tensor.data.dtype == np.uint8
        }

    def values(self, name: str) -> Values:
        """What an encoded tensor stands for. Raises ``CheckpointError`` for an unknown type."""
        from gguf.quants import dequantize

        kind, shape = self.encoded[name]
        stored = self.raw(name).reshape(-1, self.info(name).shape[-1])
        try:
            dequantize(stored[:1], kind)
        except NotImplementedError:
            raise CheckpointError(
                f"{self.label}: '{name}' is encoded as GGUF {kind.name}, which is not decoded: the "
                "package gguf has no code for it",
                hint="take the model before its quantisation",
            ) from None
        return _Blocks(stored, kind, shape[-1])


@dataclass(frozen=True)
class _Blocks(Values):
    stored: Array
    kind: Any
    columns: int

    def read(self, start: int, stop: int) -> Array:
        from gguf.quants import dequantize

        first, last = start // self.columns, -(-stop // self.columns)
        values: Array = dequantize(self.stored[first:last], self.kind).astype(
            np.float32, copy=False
        )
        origin = first * self.columns
        return values.reshape(-1)[start - origin : stop - origin].astype(np.float32, copy=False)


def _read(path: Path) -> Any:
    """The package's reader of a file. Raises ``CheckpointError`` for what is no GGUF."""
    try:
        with open_plain(path) as handle:
            if handle.read(len(_MAGIC)) != _MAGIC:
                raise CheckpointError(f"{path} is no GGUF file: it does not begin with GGUF")
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                for name in check_header(whole):
                    check_name(path, name)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is no GGUF file: {error}") from None
    require("gguf", f"reading {path}")
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except Exception as error:  # the reader raises whatever damaged bytes lead to
        raise CheckpointError(f"{path} is no GGUF file: {error}") from None
