"""safetensors files, single or sharded, memory-mapped."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.dtypes import STORAGE, Array
from stockpot.checkpoints.header import Header, TensorInfo, read_header
from stockpot.checkpoints.known_digests import keep, recall
from stockpot.errors import CheckpointError, UnsafeFileError
from stockpot.reading import open_plain, read_bytes

_SHARD_NAME = re.compile(r"[^/\\:\0]+\.safetensors")


class SafetensorsCheckpoint(Checkpoint):
    """One or more safetensors files that hold one model. ``raw`` gives views of the mapped
    files.
    """

    def __init__(self, files: list[Path], *, label: str, path: Path) -> None:
        self.files = files
        self._maps: dict[Path, mmap.mmap] = {}
        self._place: dict[str, tuple[Path, int]] = {}
        self._last: tuple[str, Array] | None = None
        tensors: dict[str, TensorInfo] = {}
        metadata: dict[str, str] = {}
        for file in files:
            header = self._open(file)
            for name, info in header.tensors.items():
                if name in tensors:
                    other = self._place[name][0]
                    raise CheckpointError(f"tensor '{name}' is in {other.name} and in {file.name}")
                tensors[name] = info
                self._place[name] = (file, header.offsets[name])
            metadata |= header.metadata
        super().__init__(tensors, label=label, path=path, metadata=metadata)

    def _open(self, file: Path) -> Header:
        try:
            with open_plain(file) as handle:
                header = read_header(file, handle)
                self._maps[file] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error
        return header

    def raw(self, name: str) -> Array:
        last = self._last  # a tensor is read block by block
        if last is not None and last[0] == name:
            return last[1]
        info = self.info(name)
        file, offset = self._place[name]
        found = np.frombuffer(self._maps[file], STORAGE[info.dtype], info.size, offset)
        self._last = name, found
        return found

    def known_digest(self) -> str | None:
        return recall(self.files)

    def keep_digest(self, digest: str) -> None:
        keep(self.files, digest)

    def prefetch(self, name: str) -> None:
        info = self.tensors.get(name)
        if info is None or not info.nbytes or not hasattr(mmap, "MADV_WILLNEED"):
            return
        file, offset = self._place[name]
        start = offset // mmap.PAGESIZE * mmap.PAGESIZE
        self._maps[file].madvise(mmap.MADV_WILLNEED, start, offset + info.nbytes - start)

    def close(self) -> None:
        self._last = None
        for view in self._maps.values():
            try:
                view.close()
            except BufferError:
                # An array still looks at the map; it is released when the last of them goes.
                continue
        self._maps = {}


def open_file(path: Path, label: str) -> SafetensorsCheckpoint:
    """Open one safetensors file."""
    return SafetensorsCheckpoint([path], label=label, path=path)


def open_sharded(index: Path, label: str) -> SafetensorsCheckpoint:
    """Open the shards that an index file lists.

    Raises ``UnsafeFileError`` where the index points outside its folder, and ``CheckpointError``
    where index and shards disagree.
    """
    weight_map = read_index(index)
    files = [shard_path(index, name) for name in dict.fromkeys(weight_map.values())]
    checkpoint = SafetensorsCheckpoint(files, label=label, path=index.parent)
    for name, shard in weight_map.items():
        if name not in checkpoint:
            raise CheckpointError(f"{index} places '{name}' in {shard}, which lacks it")
        if checkpoint._place[name][0].name != shard:
            raise CheckpointError(f"{index} places '{name}' in {shard}, it is elsewhere")
    unlisted = [name for name in checkpoint.names if name not in weight_map]
    if unlisted:
        raise CheckpointError(f"{index} does not list '{unlisted[0]}', which a shard holds")
    return checkpoint


def read_index(index: Path) -> dict[str, str]:
    """``weight_map`` of an index file: tensor name -> file name."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise CheckpointError(f"{index} names a key twice")
        return table

    try:
        content = json.loads(read_bytes(index), object_pairs_hook=unique)
        weight_map = content["weight_map"]
    except OSError as error:
        raise CheckpointError(f"cannot read {index}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{index} is no index of shards: {error}") from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map")
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise CheckpointError(f"{index} places '{name}' in {shard!r}, which is no file name")
    return weight_map


def shard_path(index: Path, name: str, pattern: re.Pattern[str] = _SHARD_NAME) -> Path:
    """Path of a shard, proved to lie in the folder of its index."""
    if name in ("", ".", "..") or not pattern.fullmatch(name):
        raise UnsafeFileError(
            f"{index} names the shard {name!r}", hint="a shard lies beside its index"
        )
    path = index.parent / name
    if not path.is_file():
        raise CheckpointError(f"{index} names the shard {name}, which is missing")
    check_link(path, index.parent)
    return path


def check_link(path: Path, folder: Path) -> None:
    """Raise ``UnsafeFileError`` for a link out of its folder, but into the blobs of a hub cache."""
    target, home = path.resolve(), folder.resolve()
    revisions = (each for each in (home, *home.parents) if each.parent.name == "snapshots")
    in_cache = any(target.parent == each.parent.parent / "blobs" for each in revisions)
    if target.parent != home and not in_cache:
        raise UnsafeFileError(f"{path} is a link out of its folder, to {target}")
