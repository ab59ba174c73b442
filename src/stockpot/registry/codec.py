"""Lossless coding of tensors: differences of bit patterns, byte planes, zstd.

Two weights that lie close together have bit patterns that lie close together, once floats are
mapped to integers in their order (sign and magnitude to two's complement). A tensor is therefore
stored as the integer difference to the same tensor of its base, zigzagged so that small differences
of either sign are small numbers, and split into byte planes: the upper planes of a fine-tuning are
almost empty, the lowest is noise. Every step is a bijection on bit patterns, so NaN payloads,
infinities and negative zeros survive.

Work goes through blocks of 256 KiB with arithmetic in place, which stay in a core's cache.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from stockpot.checkpoints.dtypes import Array
from stockpot.errors import CheckpointError
from stockpot.extras import require

BLOCK = 1 << 18  # bytes of a tensor that are coded together
_PLAIN = 1 << 31  # in the length of a plane: its bytes are stored as they are

# Long matches only, looked for in a table of 64 entries: planes are noise or nearly constant, and
# what compresses them is the entropy coder. A fast setting that also gives the smaller files.
_ZSTD = {"min_match": 7, "hash_log": 6}
_local = threading.local()


def encode(data: Array, *, floating: bool, base: Array | None = None) -> list[bytes]:
    """Bytes that hold ``data``, a flat array of unsigned integers (the stored bits).

    ``floating`` says that the bits are floats. ``base``: the bits of the base's tensor, of equal
    type and length; without it the planes of the tensor itself are coded.
    """
    width = data.itemsize
    length = BLOCK // width
    scratch = _Scratch(min(length, data.size), data.dtype)
    compress = _compressor().compress
    parts: list[bytes] = []
    for start in range(0, data.size, length):
        block = data[start : start + length]
        other = None if base is None else base[start : start + length]
        values = scratch.forward(block, other, floating)
        planes = []
        lengths = np.empty(width, "<u4")
        for plane in range(width):
            shifted = values
            if plane:
                shifted = scratch.spare[: values.size]
                np.right_shift(values, data.dtype.type(8 * plane), out=shifted)
            raw = shifted.astype(np.uint8)
            packed = compress(raw)
            plain = len(packed) >= raw.size
            planes.append(raw.tobytes() if plain else packed)
            lengths[plane] = len(planes[-1]) | (_PLAIN if plain else 0)
        parts += [lengths.tobytes(), *planes]
    return parts


def decode(body: memoryview, out: Array, *, floating: bool, base: Array | None = None) -> None:
    """Fill ``out`` (flat, unsigned integers) from what ``encode`` made, with the same ``base``.

    Raises ``CheckpointError`` where the bytes are none of its work.
    """
    width = out.itemsize
    length = BLOCK // width
    scratch = _Scratch(min(length, out.size), out.dtype)
    decompress = _decompressor().decompress
    position = 0
    for start in range(0, out.size, length):
        block = out[start : start + length]
        lengths = np.frombuffer(_take(body, position, 4 * width), "<u4")
        position += 4 * width
        bytes_of = block.view(np.uint8).reshape(-1, width)
        for plane, coded in enumerate(lengths.tolist()):
            size = coded & (_PLAIN - 1)
            packed = _take(body, position, size)
            position += size
            raw: Any = packed
            if not coded & _PLAIN:
                try:
                    raw = decompress(packed, max_output_size=block.size)
                except _local.zstandard.ZstdError as error:
                    raise CheckpointError(f"a stored tensor cannot be unpacked: {error}") from None
            if len(raw) != block.size:
                raise CheckpointError(
                    f"a stored tensor unpacks to {len(raw)} bytes, expected {block.size}"
                )
            bytes_of[:, plane] = np.frombuffer(raw, np.uint8)
        other = None if base is None else base[start : start + length]
        scratch.backward(block, other, floating)
    if position != len(body):
        raise CheckpointError(f"{len(body) - position} bytes follow a stored tensor")


class _Scratch:
    """Buffers of one call, and the bijection between bits and what is split into planes."""

    def __init__(self, length: int, dtype: np.dtype[Any]) -> None:
        self.bits = 8 * dtype.itemsize
        self.signed = np.dtype(f"i{dtype.itemsize}").type
        self.unsigned = dtype.type
        self.values = np.empty(length, dtype)
        self.spare = np.empty(length, dtype)
        self.other = np.empty(length, dtype)

    def forward(self, block: Array, base: Array | None, floating: bool) -> Array:
        """Bits to coded values, in ``self.values``."""
        values, spare = self.values[: block.size], self.spare[: block.size]
        if base is None:
            if not floating:
                return block
            # The sign goes to the end, so that the whole exponent lies in the upper plane.
            np.right_shift(block, self.unsigned(self.bits - 1), out=spare)
            np.left_shift(block, self.unsigned(1), out=values)
            np.bitwise_or(values, spare, out=values)
            return values
        if floating:
            self._order(block, values)
            base = self._order(base, self.other[: block.size])
            block = values
        np.subtract(block, base, out=values)
        signs = spare.view(f"i{spare.itemsize}")
        np.right_shift(values.view(signs.dtype), self.signed(self.bits - 1), out=signs)
        np.add(values, values, out=values)
        np.bitwise_xor(values, spare, out=values)
        return values

    def backward(self, block: Array, base: Array | None, floating: bool) -> None:
        """Coded values to bits, in place."""
        spare = self.spare[: block.size]
        if base is None:
            if floating:
                np.left_shift(block, self.unsigned(self.bits - 1), out=spare)
                np.right_shift(block, self.unsigned(1), out=block)
                np.bitwise_or(block, spare, out=block)
            return
        np.bitwise_and(block, self.unsigned(1), out=spare)
        np.negative(spare, out=spare)
        np.right_shift(block, self.unsigned(1), out=block)
        np.bitwise_xor(block, spare, out=block)
        if floating:
            base = self._order(base, self.other[: block.size])
        np.add(block, base, out=block)
        if floating:
            self._order(block, block)

    def _order(self, bits: Array, out: Array) -> Array:
        """Floats as two's complement integers in their order; its own inverse.

        Below zero the lower bits are flipped: larger magnitudes become smaller numbers.
        """
        signs = self.spare[: bits.size].view(f"i{bits.itemsize}")
        np.right_shift(bits.view(signs.dtype), self.signed(self.bits - 1), out=signs)
        np.bitwise_and(signs, self.signed((1 << (self.bits - 1)) - 1), out=signs)
        np.bitwise_xor(bits, self.spare[: bits.size], out=out)
        return out


def _take(body: memoryview, position: int, size: int) -> memoryview:
    piece = body[position : position + size]
    if len(piece) != size:
        raise CheckpointError("a stored tensor ends too early")
    return piece


def _zstandard() -> Any:
    if not hasattr(_local, "zstandard"):
        require("zstandard", "storing weights in a registry")
        import zstandard

        _local.zstandard = zstandard
    return _local.zstandard


def _compressor() -> Any:
    """This thread's compressor: one must not be used by two threads."""
    if not hasattr(_local, "compressor"):
        zstandard = _zstandard()
        parameters = zstandard.ZstdCompressionParameters.from_level(1, **_ZSTD)
        _local.compressor = zstandard.ZstdCompressor(compression_params=parameters)
    return _local.compressor


def _decompressor() -> Any:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = _zstandard().ZstdDecompressor()
    return _local.decompressor
