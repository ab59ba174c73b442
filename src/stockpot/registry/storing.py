"""Write the blobs of a model: each tensor once, against its base's, several at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stockpot.checkpoints import TensorInfo
from stockpot.checkpoints.dtypes import Array, widen
from stockpot.progress import progress
from stockpot.registry import blobs, lossy
from stockpot.registry.contents import Contents, WeightsFile
from stockpot.registry.manifest import File, Manifest, StoredTensor
from stockpot.registry.registry import Registry, blob_key
from stockpot.system import usable_cores

# A difference is decoded after its base: longer chains make reading slow.
_CHAIN = 2


@dataclass
class Tally:
    """What the threads of one ``add`` have done so far."""

    stored: int = 0
    reused: int = 0
    codecs: dict[str, int] = field(default_factory=dict)
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    worst: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


def store_files(
    registry: Registry,
    contents: Contents,
    base: Manifest | None,
    option: lossy.Option | None,
    marked: set[str],
    tally: Tally,
    threads: int | None,
    renew: Callable[[], None],
    quiet: bool,
) -> list[File]:
    origin = {} if base is None else base.tensors()
    files = [
        File(
            place,
            path.stat().st_size,
            blob=store_bytes(registry, path.read_bytes(), marked, tally),
        )
        for place, path in contents.others.items()
    ]
    total = sum(info.nbytes for file in contents.weights for info in file.tensors)
    workers = max(1, threads if threads is not None else usable_cores())
    with (
        progress("storing", total, quiet=quiet) as advance,
        ThreadPoolExecutor(workers) as pool,
    ):
        for file in contents.weights:
            inexact = option if file.path in contents.main else None

            def one(info: TensorInfo, file: WeightsFile = file, how: Any = inexact) -> StoredTensor:
                partner = origin.get(info.name) if file.path in contents.main else None
                if partner is not None and partner.info != info:
                    partner = None
                return _store_tensor(registry, file, info, partner, how, marked, tally)

            stored = []
            for tensor in pool.map(one, file.tensors):
                stored.append(tensor)
                advance(tensor.info.nbytes)
                renew()
            header = store_bytes(registry, file.header, marked, tally)
            files.append(File(file.path, file.size, header=header, tensors=tuple(stored)))
    return sorted(files, key=lambda each: each.path)


def _store_tensor(
    registry: Registry,
    file: WeightsFile,
    info: TensorInfo,
    partner: StoredTensor | None,
    option: lossy.Option | None,
    marked: set[str],
    tally: Tally,
) -> StoredTensor:
    data = file.checkpoint.raw(info.name)
    rows = info.shape[0] if len(info.shape) > 1 else 1
    if (
        option is not None
        and partner is not None
        and lossy.applies(option, info.dtype, rows, info.size)
    ):
        against = _chain(registry, partner.blob, info.dtype)
        parts, approximate = blobs.pack_lossy(option, data, info.dtype, rows, against)
        _note_loss(tally, data, approximate, registry.values(partner.blob, info.dtype), info.dtype)
        result = blobs.name_of(approximate.view(np.uint8))
        if not _is_here(registry, result, marked, tally):
            _write_blob(registry, result, parts, tally)
        return StoredTensor(info, result)
    result = blobs.name_of(blobs.bits(data).view(np.uint8))
    if not _is_here(registry, result, marked, tally):
        near = None if partner is None else _chain(registry, partner.blob, info.dtype)
        _write_blob(registry, result, blobs.pack(data, info.dtype, rows, near), tally)
    return StoredTensor(info, result)


def _is_here(registry: Registry, name: str, marked: set[str], tally: Tally) -> bool:
    """Whether a blob is there and will stay: one that ``gc`` has marked is written again."""
    key = blob_key(name)
    if not registry.store.exists(key):
        return False
    if name in marked:
        registry.store.write(key, [registry.store.read(key)])
    with tally.lock:
        tally.reused += 1
    return True


def _chain(registry: Registry, name: str, dtype: str) -> tuple[str, Array]:
    """A blob to store a difference against: this one, or where its chain is too long, its base."""
    depth, origins = 0, [name]
    while (base := registry.blob_header(origins[-1]).base) is not None:
        origins.append(base)
        depth += 1
    chosen = origins[0] if depth < _CHAIN else origins[depth - _CHAIN + 1]
    return chosen, registry.values(chosen, dtype)


def store_bytes(registry: Registry, data: bytes, marked: set[str], tally: Tally) -> str:
    name = blobs.name_of(data)
    if not _is_here(registry, name, marked, tally):
        _write_blob(registry, name, blobs.pack_raw(data), tally)
    return name


def _write_blob(registry: Registry, name: str, parts: Sequence[bytes], tally: Tally) -> None:
    # A blob is never written over: what others are stored against keeps its coding.
    with suppress(FileExistsError):
        registry.store.write(blob_key(name), parts, exclusive=True)
    kind = blobs.CODECS[blobs.read_header(parts[0], name).codec]
    with tally.lock:
        tally.stored += sum(map(len, parts))
        tally.codecs[kind] = tally.codecs.get(kind, 0) + 1


def marked_blobs(registry: Registry) -> set[str]:
    """Blobs that a running ``gc`` is about to remove: they are written again when needed."""
    return {blob for _, mark in registry.documents("gc") for blob in mark["blobs"]}


def _note_loss(tally: Tally, exact: Array, stored: Array, base: Array, dtype: str) -> None:
    """Sum up squared errors and squared differences to the base, in float64."""
    wide = [widen(each, dtype).astype(np.float64) for each in (exact, stored, base)]
    error = float(np.square(wide[1] - wide[0]).sum())
    change = float(np.square(wide[0] - wide[2]).sum())
    with tally.lock:
        tally.squares[0] += error
        tally.squares[1] += change
        if change > 0:
            tally.worst = max(tally.worst, (error / change) ** 0.5)
