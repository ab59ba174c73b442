"""Distributed checkpoints of PyTorch (DCP; also what FSDP writes): tensors cut among files.

A pickle, ``.metadata``, says where the pieces lie. It is read without importing or calling anything
that it names. Format: ``torch.distributed.checkpoint`` (``metadata.py``, ``filesystem.py``).
"""

from __future__ import annotations

import math
import pickle
import re
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints.archive import LARGEST_PICKLE, examine
from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.dtypes import STORAGE, Array
from stockpot.checkpoints.header import TensorInfo
from stockpot.checkpoints.memory import dtype_code, storage_array
from stockpot.checkpoints.pickle_file import unwrap
from stockpot.checkpoints.safetensors_file import check_link
from stockpot.errors import CheckpointError, UnsafeFileError
from stockpot.extras import require
from stockpot.reading import open_plain

METADATA = ".metadata"
_KEPT = 2
"""Tensors that are held after they were put together: they are read in pieces, one by one."""
_KINDS = {
    *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata"),
    *("BytesStorageMetadata", "ChunkStorageMetadata", "_MEM_FORMAT_ENCODING", "_StorageInfo"),
    *("MEM_FORMAT_ENCODING", "_get_layout", "Size", "PosixPath", "PurePosixPath", "WindowsPath"),
}
_HOMES = ("torch", "torch.serialization", "pathlib", "torch.distributed.")
_FILE = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class _Chunk:
    """A piece of a tensor: where it begins, its shape, and where its bytes lie."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: Path
    start: int
    length: int


class DcpCheckpoint(Checkpoint):
    """A folder of ``torch.distributed.checkpoint``. Training state beside the model is left out."""

    def __init__(self, folder: Path, *, label: str) -> None:
        require("torch", f"reading {folder}")
        try:
            entries = _entries(folder)
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(f"{folder / METADATA} is damaged: {error}") from None
        tensors, self._chunks = {}, {}
        for name, (code, shape, chunks) in entries.items():
            tensors[name] = TensorInfo(name, shape, code)
            self._chunks[name] = chunks
        super().__init__(tensors, label=label, path=folder)
        self._whole = lru_cache(_KEPT)(self._assemble)

    @property
    def home(self) -> Path | None:
        """The folder with the model's config, or the one that it lies in (accelerate's FSDP)."""
        assert self.path is not None
        return next(
            (f for f in (self.path, self.path.parent) if (f / "config.json").is_file()), None
        )

    def raw(self, name: str) -> Array:
        self.info(name)
        return self._whole(name)

    def _assemble(self, name: str) -> Array:
        info = self.info(name)
        whole = np.empty(info.shape, STORAGE[info.dtype])
        missing = np.ones(info.shape, bool)
        for chunk in self._chunks[name]:
            region = tuple(
                slice(start, start + size)
                for start, size in zip(chunk.offsets, chunk.shape, strict=True)
            )
            whole[region] = _read(chunk, info)
            missing[region] = False
        if missing.any():
            raise CheckpointError(f"{self.label}: pieces of '{name}' are missing")
        return whole.reshape(-1)

    def close(self) -> None:
        self._whole.cache_clear()


def _read(chunk: _Chunk, info: TensorInfo) -> Array:
    """The values of a piece, in its shape."""
    import torch

    try:
        with open_plain(chunk.file) as handle:
            handle.seek(chunk.start)
            data = BytesIO(handle.read(chunk.length))
        examine(chunk.file, data)
        data.seek(0)
        tensor = torch.load(data, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{chunk.file}: '{info.name}' cannot be read: {reason}") from None
    if dtype_code(tensor) != info.dtype or tuple(tensor.shape) != chunk.shape:
        raise CheckpointError(
            f"{chunk.file}: a piece of '{info.name}' is {tensor.dtype} {tuple(tensor.shape)}, "
            f"expected {info.dtype} {chunk.shape}"
        )
    return storage_array(tensor, info.dtype)


def _entries(folder: Path) -> dict[str, tuple[str, tuple[int, ...], list[_Chunk]]]:
    """Type, shape and pieces of each tensor of the model."""
    import torch

    path = folder / METADATA
    content = _load(path)
    stored = content["storage_data"]
    where = {
        (index.state["fqn"], _size(index.state.get("offset"))): info.state
        for index, info in stored.items()
    }
    nested: dict[str, Any] = {}
    keys: dict[int, str] = {}
    described = content["state_dict_metadata"]
    for key, entry in described.items():
        if type(entry).__name__ != "TensorStorageMetadata":
            continue
        dtype = entry.state["properties"].state
        dtype = dtype["dtype"] if isinstance(dtype, dict) else dtype[0]
        # Stands for the tensor: of its shape and type, and as large as one number.
        stand_in = torch.empty((), dtype=dtype).expand(_size(entry.state["size"]))
        keys[id(stand_in)] = key
        *tables, name = (content.get("planner_data") or {}).get(key, (key,))
        table = nested
        for outer in tables:
            table = table.setdefault(str(outer), {})
        table[str(name)] = stand_in
    entries = {}
    for name, stand_in in unwrap(nested, path).items():
        key = keys[id(stand_in)]
        pieces = []
        for chunk in described[key].state["chunks"]:
            offsets, shape = _size(chunk.state["offsets"]), _size(chunk.state["sizes"])
            info = where.get((key, offsets)) or where[key, ()]
            pieces.append(_chunk(folder, key, offsets, shape, info))
        code = dtype_code(stand_in)
        assert code is not None
        entries[name] = code, tuple(stand_in.shape), pieces
    return entries


def _chunk(
    folder: Path, key: str, offsets: tuple[int, ...], shape: tuple[int, ...], info: dict[str, Any]
) -> _Chunk:
    file = str(info["relative_path"])
    if not _FILE.fullmatch(file) or file.startswith(".."):
        raise UnsafeFileError(f"{folder / METADATA} names the file {file!r:.80}")
    if info.get("transform_descriptors"):
        raise CheckpointError(f"{folder}: '{key}' is stored transformed, which is not undone")
    check_link(folder / file, folder)
    start, length = int(info["offset"]), int(info["length"])
    if start < 0 or not 0 < length <= (folder / file).stat().st_size - start:
        raise CheckpointError(f"{folder / file} is too short for '{key}'")
    return _Chunk(offsets, shape, folder / file, start, length)


def _size(value: Any) -> tuple[int, ...]:
    """A ``torch.Size``; None: ()."""
    sizes = tuple(value.arguments[0]) if value is not None else ()
    if any(type(size) is not int or size < 0 for size in sizes) or math.prod(sizes) > 2**48:
        raise ValueError(f"a size of {sizes!r:.80}")
    return sizes


class _Inert:
    """Stands for an object of a class that the pickle names, with what the pickle says of it."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> _Inert:
        self = super().__new__(cls)
        self.arguments = arguments
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


# Python's own unpickler in Python: that in C takes memory for any number a pickle writes.
class _Reader(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        import torch

        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if name not in _KINDS or not (module in _HOMES or module.startswith(_HOMES[-1])):
            raise UnsafeFileError(f"it names {module}.{name}")
        return type(name, (_Inert,), {})


def _load(path: Path) -> dict[str, Any]:
    """The fields of the metadata. Raises ``UnsafeFileError`` where it names anything else."""
    try:
        with open_plain(path) as handle:
            data = handle.read(LARGEST_PICKLE + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > LARGEST_PICKLE:
        raise CheckpointError(f"{path} is larger than {LARGEST_PICKLE:,} bytes, the limit")
    try:
        content = _Reader(BytesIO(data)).load().state
    except UnsafeFileError as error:
        raise UnsafeFileError(
            f"{path} would run code when read: {error.message}",
            hint="convert it where you trust it: python -m torch.distributed.checkpoint."
            "format_utils dcp_to_torch FOLDER model.pt",
        ) from None
    except Exception as error:  # an unpickler raises whatever the bytes lead to
        reason = str(error) or type(error).__name__
        raise CheckpointError(f"{path} is no metadata of a checkpoint: {reason}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no metadata of a checkpoint")
    return content
