"""A checkpoint: named tensors that are read when asked for, wherever they are stored."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np

from stockpot.checkpoints.dtypes import Array, decode, first_nonfinite, widen
from stockpot.checkpoints.header import TensorInfo
from stockpot.errors import CheckpointError


class Checkpoint(ABC):
    """Weights somewhere: names, shapes and types are known, data are read on demand.

    A context manager: what it maps is released at the end.

    Attributes:
        label: what the user called it; used in messages and reports.
        path: file or folder, None for weights in memory.
        metadata: texts stored beside the tensors.
        base: what the adapter lies on, where this is a model with an adapter.
        config_changes: what the model's config must say other than that in ``home``.
    """

    base: Checkpoint | None = None
    config_changes: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        *,
        label: str,
        path: Path | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.tensors = dict(tensors)
        self.label = label
        self.path = path
        self.metadata = dict(metadata or {})

    @property
    def home(self) -> Path | None:
        """Folder with the config and tokenizer that belong to the weights; None where there is
        none.
        """
        if self.path is None:
            return None
        folder = self.path if self.path.is_dir() else self.path.parent
        return folder if (folder / "config.json").is_file() else None

    @property
    def stored(self) -> Checkpoint:
        """The checkpoint as it lies there, where this one is another view of its weights."""
        return self

    @property
    def notes(self) -> list[str]:
        """What a report says of how these weights were read; empty where they lie as they are."""
        return []

    @property
    def names(self) -> list[str]:
        """Names of the tensors, in stored order."""
        return list(self.tensors)

    def info(self, name: str) -> TensorInfo:
        """Name, shape and type. Raises ``CheckpointError`` for an unknown name."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.label} has no tensor '{name}'")
        return self.tensors[name]

    @abstractmethod
    def raw(self, name: str) -> Array:
        """Stored values, flat (size,): bits as uint16 / uint8 for bfloat16 and 8-bit floats.

        Read-only, and valid while the checkpoint is open.
        """

    def prefetch(self, name: str) -> None:  # noqa: B027 (only files on a disk can be fetched)
        """Say that a tensor is read soon, so that the disk can begin."""

    def decode(self, name: str, start: int, stop: int, out: Array) -> Array:
        """Elements ``start ... stop`` of the flattened tensor as floats, into ``out``, exactly."""
        return decode(self.raw(name)[start:stop], self.info(name).dtype, out)

    def first_nonfinite(self, name: str, start: int, stop: int) -> int | None:
        """Position in the flattened tensor of the first NaN or infinity in a piece, or None."""
        place = first_nonfinite(self.raw(name)[start:stop], self.info(name).dtype)
        return None if place is None else start + place

    def read(self, name: str) -> Array:
        """The tensor in its shape: float32 for bfloat16 and 8-bit floats, else its own type."""
        info = self.info(name)
        return widen(self.raw(name), info.dtype).reshape(info.shape)

    def blocks(self, name: str, elements: int) -> Iterator[Array]:
        """The flattened tensor in pieces of at most ``elements``, typed as by ``read``."""
        info, stored = self.info(name), self.raw(name)
        for start in range(0, info.size, elements):
            yield widen(stored[start : start + elements], info.dtype)

    def tensor_digest(self, name: str) -> bytes:
        """SHA-256 of a tensor's stored bytes."""
        return hashlib.sha256(_bytes(self.raw(name))).digest()

    def digest(self) -> str:
        """SHA-256 (hex) over names, types, shapes and contents; the same however it is stored."""
        known = self.known_digest()
        if known is None:
            parts = {name: self.tensor_digest(name) for name in self.tensors}
            known = join_digests(self.tensors, parts)
            self.keep_digest(known)
        return known

    def known_digest(self) -> str | None:
        """The digest where it is known without reading the data."""
        return None

    def keep_digest(self, digest: str) -> None:  # noqa: B027 (only files can be recognised)
        """Remember a digest for the next time."""

    def close(self) -> None:  # noqa: B027 (nothing to release is the common case)
        """Release what is open. Arrays from ``raw`` must not be used any more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.label!r}, {len(self.tensors)} tensors)"


def join_digests(tensors: Mapping[str, TensorInfo], digests: Mapping[str, bytes]) -> str:
    """Digest of a checkpoint from the digests of its tensors."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        info = tensors[name]
        whole.update(f"{name}\0{info.dtype}\0{info.shape}\0".encode())
        whole.update(digests[name])
    return whole.hexdigest()


def _bytes(stored: Array) -> Any:
    return np.ascontiguousarray(stored).view(np.uint8).data if stored.size else b""
