"""A blob: one tensor (or a small file) as a registry keeps it, named by what it decodes to.

``header, its CRC-32 | body | CRC-32 of the body``. The name is the SHA-256 of the decoded bytes,
so the same tensor is kept once, however it is coded, and coding it anew changes no name. The
checksum covers the coded bytes, so that a flipped bit is found even where a decoder would not care.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stockpot.checkpoints.dtypes import STORAGE, Array, is_float
from stockpot.errors import CheckpointError
from stockpot.registry import codec, lossy

RAW, PLANES, DELTA, INT8, SIGN, LOW_RANK = range(6)
CODECS = ("raw", "planes", "delta", "int8", "sign", "low-rank")
LOSSY = {"int8": INT8, "sign": SIGN, "low-rank": LOW_RANK}

_MAGIC = b"SPB1"
# magic, codec, dtype, decoded bytes, rows of the tensor as a matrix, digest of the base's blob
_HEADER = struct.Struct("<4sB3x8sQQ32s")
HEADER = _HEADER.size + 4  # with a checksum of its own: ``gc`` reads headers alone
_NO_BASE = bytes(32)
# Below this a codec's own bytes are most of what it writes.
_SMALL = 256
# A coded tensor that is hardly smaller is not worth its decoding.
_WORTH = 0.95


@dataclass(frozen=True)
class BlobHeader:
    """What a blob says of itself. ``base`` is the name of the blob it is a difference to."""

    codec: int
    dtype: str
    nbytes: int
    rows: int
    base: str | None


def name_of(data: Array | bytes) -> str:
    """SHA-256 (hex) of decoded bytes: the name of their blob."""
    content: Any = data if isinstance(data, bytes) else data.view(np.uint8).data
    return hashlib.sha256(content if len(data) else b"").hexdigest()


def bits(stored: Array) -> Array:
    """Stored values (flat, any type) as unsigned integers of the same width."""
    return np.ascontiguousarray(stored).view(f"u{stored.itemsize}")


def pack_raw(data: bytes) -> list[bytes]:
    """A blob that holds bytes as they are."""
    return _close(BlobHeader(RAW, "U8", len(data), 1, None), [data])


def pack(
    stored: Array, dtype: str, rows: int, against: tuple[str, Array] | None = None
) -> list[bytes]:
    """The smallest lossless blob of a flat tensor in storage type ``dtype``.

    ``against``: name and values of a blob of the same type and size; the planes of the tensor
    itself are taken where the difference is no smaller.
    """
    data = bits(stored)
    candidates: list[tuple[int, str | None, list[bytes]]] = []
    if data.nbytes > _SMALL and against is not None:
        parts = codec.encode(data, floating=is_float(dtype), base=bits(against[1]))
        candidates.append((DELTA, against[0], parts))
    if data.nbytes > _SMALL and (not candidates or _size(candidates[0][2]) > 0.6 * data.nbytes):
        candidates.append((PLANES, None, codec.encode(data, floating=is_float(dtype))))
    candidates.sort(key=lambda each: _size(each[2]))
    if not candidates or _size(candidates[0][2]) > _WORTH * data.nbytes:
        candidates.insert(0, (RAW, None, [data.tobytes()]))
    kind, origin, parts = candidates[0]
    return _close(BlobHeader(kind, dtype, data.nbytes, rows, origin), parts)


def pack_lossy(
    option: lossy.Option, stored: Array, dtype: str, rows: int, against: tuple[str, Array]
) -> tuple[list[bytes], Array]:
    """An approximate blob of a flat float tensor, and the tensor that it decodes to."""
    base_name, base = against
    body = lossy.encode(option, stored, dtype, rows, base)
    approximate = lossy.decode(option.name, memoryview(body), dtype, rows, base)
    header = BlobHeader(LOSSY[option.name], dtype, stored.nbytes, rows, base_name)
    return _close(header, [body]), approximate


def read_header(blob: bytes | memoryview, name: str) -> BlobHeader:
    """Parse a blob's first ``HEADER`` bytes. Raises ``CheckpointError`` naming the blob."""
    view = memoryview(blob)
    if len(view) < HEADER:
        raise _damaged(name, f"it has {len(view)} bytes")
    if _crc([view[: _HEADER.size]]) != view[_HEADER.size : HEADER]:
        raise _damaged(name, "the checksum of its header is wrong")
    magic, kind, dtype, nbytes, rows, base = _HEADER.unpack(view[: _HEADER.size])
    code = dtype.rstrip(b"\0").decode("ascii", "replace")
    if magic != _MAGIC or kind >= len(CODECS) or code not in STORAGE:
        raise _damaged(name, "its header is not that of a blob")
    return BlobHeader(kind, code, nbytes, rows, None if base == _NO_BASE else base.hex())


def unpack(blob: bytes, name: str, fetch: Callable[[str], Array], *, check: bool = True) -> Array:
    """The decoded bytes of a blob, uint8 (nbytes,). ``fetch`` gives those of its base by name.

    Raises ``CheckpointError`` where the blob is damaged, and with ``check`` also where it decodes
    to something else than its name says.
    """
    view = memoryview(blob)
    header = read_header(view, name)
    if len(view) < HEADER + 4:
        raise _damaged(name, "it ends too early")
    if _crc([view[HEADER:-4]]) != view[-4:]:
        raise _damaged(name, "its checksum is wrong")
    body = view[HEADER:-4]
    storage = STORAGE[header.dtype]
    if header.nbytes % storage.itemsize:
        raise _damaged(name, "its size is no whole number of values")
    base = None
    if header.base is not None:
        base = fetch(header.base)
        if base.nbytes != header.nbytes:
            raise _damaged(name, f"its base has {base.nbytes} bytes, expected {header.nbytes}")
    try:
        found = _unpack(header, body, base)
    except (CheckpointError, ValueError, struct.error) as error:
        raise _damaged(name, str(error)) from error
    if check and name_of(found) != name:
        raise _damaged(name, "it decodes to other bytes than its name says")
    return found


def _unpack(header: BlobHeader, body: memoryview, base: Array | None) -> Array:
    if header.codec == RAW:
        if len(body) != header.nbytes:
            raise CheckpointError(f"it holds {len(body)} bytes, expected {header.nbytes}")
        return np.frombuffer(body, np.uint8)
    storage = STORAGE[header.dtype]
    width = storage.itemsize
    if header.codec in (PLANES, DELTA):
        out = np.empty(header.nbytes // width, f"u{width}")
        other = None if base is None else base.view(out.dtype)
        codec.decode(body, out, floating=is_float(header.dtype), base=other)
        return out.view(np.uint8)
    if base is None:
        raise CheckpointError("it names no base")
    option = CODECS[header.codec]
    values = lossy.decode(option, body, header.dtype, header.rows, base.view(storage))
    return values.view(np.uint8)


def _close(header: BlobHeader, parts: Sequence[bytes]) -> list[bytes]:
    base = _NO_BASE if header.base is None else bytes.fromhex(header.base)
    dtype = header.dtype.encode()
    head = _HEADER.pack(_MAGIC, header.codec, dtype, header.nbytes, header.rows, base)
    return [head + _crc([head]), *parts, _crc(parts)]


def _crc(parts: Sequence[bytes | memoryview]) -> bytes:
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return total.to_bytes(4, "little")


def _size(parts: Sequence[bytes]) -> int:
    return sum(map(len, parts))


def _damaged(name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"blob {name[:12]} is damaged: {what}", hint="stockpot registry verify lists what it hits"
    )
