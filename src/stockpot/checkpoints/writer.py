"""Write safetensors files: the size is known before any data, so room is taken first.

Tensors can be written in any order and by several threads. A file or folder gets its final name
only when it is whole and on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from stockpot.checkpoints.direct import DirectFile
from stockpot.checkpoints.dtypes import STORAGE, Array, code_of, narrow
from stockpot.checkpoints.header import Header, TensorInfo, build_header, header_bytes
from stockpot.checkpoints.running_digests import RunningDigests
from stockpot.errors import CheckpointError
from stockpot.files import atomic_file, write_json
from stockpot.system import BINARY, reserve, write_at

DEFAULT_SHARD = 5_000_000_000
_DIRECT_FROM = 64 << 20


class CheckpointWriter:
    """Safetensors files with known contents, filled piece by piece.

    ``write(name, start, values)`` may be called from several threads; each element is written
    once. Large files are written past the page cache where the file system can do that.
    ``running``: where one is put there, what is written is hashed on its way.
    """

    def __init__(
        self,
        layout: Mapping[Path, Header],
        *,
        fresh: bool = True,
        prefixes: Mapping[Path, str] | None = None,
    ) -> None:
        self._layout = layout
        self._prefixes = prefixes or {}
        self._files: list[CachedFile | DirectFile] = []
        self._place: dict[str, tuple[CachedFile | DirectFile, int]] = {}
        self.tensors: dict[str, TensorInfo] = {}
        self.running: RunningDigests | None = None
        try:
            for path, header in layout.items():
                self._open(path, header, fresh)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path, header: Header, fresh: bool) -> None:
        if fresh:
            take_room(path, header.file_size)
        file = open_sized(path, header.file_size)
        self._files.append(file)
        if fresh:
            file.write(memoryview(header_bytes(header.tensors, header.metadata)), 0)
        prefix = self._prefixes.get(path, "")
        for name, offset in header.offsets.items():
            self._place[prefix + name] = (file, offset)
            self.tensors[prefix + name] = header.tensors[name]

    @contextmanager
    def again(self) -> Iterator[CheckpointWriter]:
        """The same files, opened once more: for a process that writes some of the tensors."""
        writer = CheckpointWriter(self._layout, fresh=False, prefixes=self._prefixes)
        writer.running = None if self.running is None else RunningDigests()
        try:
            yield writer
        finally:
            writer.close()

    def write(self, name: str, start: int, stored: Array) -> None:
        """Put storage values at element ``start`` of the flattened tensor ``name``."""
        file, offset = self._place[name]
        stored = np.ascontiguousarray(stored)
        if stored.size:
            if self.running is not None:
                self.running.add(name, start, stored)
            data = stored.view(np.uint8).reshape(-1).data
            file.write(data, offset + start * stored.itemsize)

    def room(self, name: str, start: int, size: int) -> Iterator[Array]:
        """Memory for ``size`` storage values from element ``start`` on, in a few pieces: each is
        to be filled before the next one is asked for.
        """
        file, offset = self._place[name]
        storage = STORAGE[self.tensors[name].dtype]
        offset += start * storage.itemsize
        if isinstance(file, DirectFile) and offset % storage.itemsize == 0:
            for room in file.room(offset, size * storage.itemsize):
                piece = room.view(storage)
                yield piece
                if self.running is not None:
                    self.running.add(name, start, piece)
                start += piece.size
        else:
            values = np.empty(size, storage)
            yield values
            self.write(name, start, values)

    def flush(self) -> None:
        """Bring to the disk what has been written so far and waits in the page cache."""
        for file in self._files:
            if isinstance(file, CachedFile):
                file.finish()

    def finish(self) -> None:
        """Wait until everything is on the disk. Nothing can be written afterwards."""
        for file in self._files:
            file.finish()

    def close(self) -> None:
        while self._files:
            self._files.pop().close()


class CachedFile:
    """A file that is written through the page cache."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | BINARY)

    def write(self, data: memoryview, offset: int) -> None:
        write_at(self._descriptor, data, offset)

    def finish(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def take_room(path: Path, size: int) -> None:
    """Make a new file of ``size`` bytes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | BINARY, 0o666)
    try:
        reserve(descriptor, size)
    finally:
        os.close(descriptor)


def open_sized(path: Path, size: int) -> CachedFile | DirectFile:
    """A file that has ``size`` bytes, for writing any part of it."""
    if size >= _DIRECT_FROM and hasattr(os, "O_DIRECT"):
        # Not every file system can do it (some network and memory ones).
        with suppress(OSError):
            return DirectFile(path, size)
    return CachedFile(path)


@contextmanager
def file_writer(
    path: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]
) -> Iterator[CheckpointWriter]:
    """A writer for one file, whole or not at all."""
    with atomic_file(path) as temporary:
        writer = CheckpointWriter({temporary: build_header(tensors, metadata)})
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()


@contextmanager
def folder_writer(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    metadata: Mapping[str, str],
    max_shard_size: int = DEFAULT_SHARD,
    components: Mapping[str, str] | None = None,
) -> Iterator[CheckpointWriter]:
    """A writer for ``model.safetensors``, or shards and their index, inside an existing folder.

    ``components``: of a folder of several models the prefixes of their tensors, ``"unet/"``, and
    the names of their files. The folder is the caller's to make whole
    (``stockpot.files.atomic_folder``).
    """
    layout: dict[Path, Header] = {}
    prefixes: dict[Path, str] = {}
    for prefix, file in (components or {"": "model.safetensors"}).items():
        plain = {
            name.removeprefix(prefix): info
            for name, info in tensors.items()
            if _component(name, components) == prefix
        }
        if not plain and components:
            continue
        (folder / prefix).mkdir(exist_ok=True)
        part = folder_layout(folder / prefix, plain, metadata, max_shard_size, file)
        layout |= part
        prefixes |= dict.fromkeys(part, prefix)
    writer = CheckpointWriter(layout, prefixes=prefixes)
    try:
        yield writer
        writer.finish()
    finally:
        writer.close()


def _component(name: str, components: Mapping[str, str] | None) -> str:
    """Prefix of the component that a tensor belongs to."""
    return next((p for p in components or () if p and name.startswith(p)), "")


def folder_layout(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    metadata: Mapping[str, str],
    max_shard_size: int = DEFAULT_SHARD,
    file: str = "model.safetensors",
) -> dict[Path, Header]:
    """Files of a model folder and what each will hold; writes the index where there are several."""
    shards = split_shards(tensors, max_shard_size)
    if len(shards) == 1:
        names = [file]
    else:
        begin, count = file.removesuffix(".safetensors"), len(shards)
        names = [f"{begin}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        weight_map = {
            name: file for file, shard in zip(names, shards, strict=True) for name in shard
        }
        sizes = {
            "total_parameters": sum(info.size for info in tensors.values()),
            "total_size": sum(info.nbytes for info in tensors.values()),
        }
        write_json(
            folder / f"{file}.index.json",
            {"metadata": sizes, "weight_map": dict(sorted(weight_map.items()))},
        )
    return {
        folder / file: build_header(shard, metadata)
        for file, shard in zip(names, shards, strict=True)
    }


def split_shards(
    tensors: Mapping[str, TensorInfo], max_shard_size: int
) -> list[dict[str, TensorInfo]]:
    """Greedy shards in the given order of at most ``max_shard_size`` bytes; a larger tensor is
    alone.
    """
    shards: list[dict[str, TensorInfo]] = [{}]
    used = 0
    for name, info in tensors.items():
        if shards[-1] and used + info.nbytes > max_shard_size:
            shards.append({})
            used = 0
        shards[-1][name] = info
        used += info.nbytes
    return shards


def write_checkpoint(
    path: str | Path,
    tensors: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
    *,
    dtypes: Mapping[str, str] | None = None,
) -> None:
    """Write numpy arrays as one safetensors file, whole or not at all.

    Args:
        path: the file; ``{"format": "pt"}`` is added to ``metadata``, which older readers insist
            on.
        tensors: any shapes and strides.
        dtypes: safetensors codes for some names, for types that numpy lacks: ``{"w": "BF16"}``
            rounds float arrays to bfloat16 and takes uint16 arrays as bits.

    Raises ``CheckpointError`` for arrays that cannot be stored, ``OutputError`` for the file.
    """
    plan: dict[str, TensorInfo] = {}
    for name, array in tensors.items():
        code = (dtypes or {}).get(name) or code_of(np.asarray(array))
        if code is None:
            raise CheckpointError(f"'{name}' is {np.asarray(array).dtype}, which cannot be stored")
        plan[name] = TensorInfo(name, np.shape(array), code)
    with file_writer(Path(path), plan, {"format": "pt", **(metadata or {})}) as writer:
        for name, info in plan.items():
            writer.write(name, 0, narrow(np.asarray(tensors[name]), info.dtype).reshape(-1))
