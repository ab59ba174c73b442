"""The header of a safetensors file, read strictly.

A file is ``u64 length | JSON header | data``. Everything that a reader could understand in two ways
is refused: duplicate names, unknown fields, holes, overlaps, bytes that belong to nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stockpot.checkpoints.dtypes import STORAGE
from stockpot.errors import CheckpointError
from stockpot.reading import visible

MAX_HEADER = 100_000_000
_ALIGNMENT = 8
_NAME, _DIMENSIONS, _ELEMENTS = 1000, 32, 2**62
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_METADATA = "__metadata__"


@dataclass(frozen=True)
class TensorInfo:
    """Name, shape and element type (safetensors code) of a stored tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * STORAGE[self.dtype].itemsize


@dataclass(frozen=True)
class Header:
    """What a file holds. ``offsets`` are positions of first bytes in the file."""

    tensors: dict[str, TensorInfo]
    offsets: dict[str, int]
    metadata: dict[str, str]
    file_size: int


def read_header(path: Path, handle: BinaryIO) -> Header:
    """Parse and check the header of an open file.

    Raises ``CheckpointError`` that names file and tensor.
    """
    size = handle.seek(0, 2)
    handle.seek(0)
    prefix = handle.read(8)
    if len(prefix) < 8:
        raise _bad(path, f"has {size} bytes, too few for a header", "it is empty or truncated")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER:
        raise _bad(path, f"claims a header of {length} bytes", "it is no safetensors file")
    if length > size - 8:
        raise _bad(path, f"claims a header of {length} bytes but has {size - 8}", "it is truncated")
    raw = handle.read(length)
    if not raw.startswith(b"{"):
        raise _bad(path, "has a header that does not start with '{'", "it is no safetensors file")
    return parse_header(path, raw, size)


def parse_header(path: Path, raw: bytes, file_size: int) -> Header:
    """Check header bytes against the size of their file."""
    try:
        entries = json.loads(raw, object_pairs_hook=lambda pairs: _unique(path, pairs))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _bad(path, f"has a header that is no JSON: {error}") from None
    if not isinstance(entries, dict):
        raise _bad(path, "has a header that is no JSON object")
    metadata = entries.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _bad(path, "has metadata that is not a table of texts")
    start = 8 + len(raw)
    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        info, begin, end = _entry(path, name, entry)
        tensors[name] = info
        spans.append((begin, end, name))
    spans.sort()
    position = 0
    for begin, end, name in spans:
        if begin != position:
            kind = "overlaps another tensor" if begin < position else "leaves a hole before it"
            raise _bad(path, f"tensor '{name}' {kind} (starts at {begin}, expected {position})")
        position = end
    if start + position != file_size:
        raise _bad(
            path,
            f"holds {file_size - start} bytes of data, its header describes {position}",
            "it is truncated" if file_size < start + position else "bytes belong to no tensor",
        )
    offsets = {name: start + begin for begin, _, name in spans}
    return Header(tensors, offsets, metadata, file_size)


def build_header(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> Header:
    """Header and layout for tensors written in the given order.

    Raises ``CheckpointError`` for a name that a reader would take for something else.
    """
    if _METADATA in tensors:
        raise CheckpointError(
            f"a tensor is called '{_METADATA}', which means something else in a safetensors file",
            hint="rename it",
        )
    start = len(header_bytes(tensors, metadata))
    offsets: dict[str, int] = {}
    for name, info in tensors.items():
        offsets[name] = start
        start += info.nbytes
    return Header(dict(tensors), offsets, dict(metadata), start)


def header_bytes(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Length prefix and JSON header, padded with spaces so that data start on 8 bytes."""
    table: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    position = 0
    for name, info in tensors.items():
        end = position + info.nbytes
        table[name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [position, end],
        }
        position = end
    raw = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    return len(raw).to_bytes(8, "little") + raw


def check_name(path: Path, name: str) -> None:
    """Raise ``CheckpointError`` for the name of a tensor that no terminal shows as it is."""
    if len(name) > _NAME or _UNFIT.search(name):
        raise _bad(
            path,
            f"tensor '{visible(name[:_NAME])}' has a name with control characters, or of more "
            f"than {_NAME}",
        )


def _entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    where = f"tensor '{name[:_NAME]}'"
    check_name(path, name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _bad(path, f"{where} is not described by dtype, shape and data_offsets alone")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in STORAGE:
        raise _bad(path, f"{where} has the type {dtype!r}", f"known: {', '.join(STORAGE)}")
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise _bad(path, f"{where} has a shape or offsets that are not whole numbers >= 0")
    if len(shape) > _DIMENSIONS or math.prod(size or 1 for size in shape) > _ELEMENTS:
        raise _bad(path, f"{where} has a shape that no array can have")
    info = TensorInfo(name, tuple(shape), dtype)
    begin, end = offsets
    if end - begin != info.nbytes:
        raise _bad(path, f"{where} spans {end - begin} bytes, its shape needs {info.nbytes}")
    return info, begin, end


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _unique(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _bad(path, f"names '{twice}' twice in its header")
    return table


def _bad(path: Path, what: str, hint: str | None = None) -> CheckpointError:
    return CheckpointError(f"{path} {what}", hint=hint)
