"""Approximate storage of a fine-tuning as its difference to the base: int8, sign, low rank.

Decoding gives the same bytes on every machine: element-wise float32 arithmetic in a fixed order, no
matrix products. What comes out is another model with its own digest; its manifest says how it was
made and how far it is off.

Sources: sign with one scale a matrix: Liu et al. 2024, "BitDelta", arXiv 2402.10193, eq. 1 and 2
(alpha = mean |delta|, the least-squares scale of a sign matrix). Low rank: truncated singular value
decomposition of the difference (Eckart and Young 1936).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from stockpot.checkpoints.dtypes import STORAGE, Array
from stockpot.checkpoints.dtypes import decode as widen
from stockpot.checkpoints.dtypes import encode as narrow
from stockpot.errors import CheckpointError, InputError
from stockpot.registry import codec

NAMES = ("int8", "sign", "low-rank")
_WRITABLE = ("BF16", "F16", "F32", "F64")
_HINT = "choose int8, sign or low-rank:RANK (such as low-rank:16)"


@dataclass(frozen=True)
class Option:
    """How to store approximately. ``rank`` belongs to "low-rank" alone."""

    name: str
    rank: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.rank}" if self.rank else self.name


def parse_option(text: str) -> Option:
    """Read "int8", "sign" or "low-rank:16". Raises ``InputError``."""
    found = re.fullmatch(r"(int8|sign)|low-rank:([1-9]\d{0,4})", text)
    if not found:
        raise InputError(f"lossy storage {text!r} is unknown", hint=_HINT)
    return Option(found[1]) if found[1] else Option("low-rank", int(found[2]))


def applies(option: Option, dtype: str, rows: int, size: int) -> bool:
    """Whether a tensor of ``rows`` times ``size / rows`` is stored approximately.

    Vectors and small or narrow matrices are kept exactly: they are few bytes and matter most.
    """
    columns = size // rows if rows else 0
    if dtype not in _WRITABLE or min(rows, columns) < 8:
        return False
    return option.name != "low-rank" or option.rank * (rows + columns) < size // 2


def encode(option: Option, stored: Array, dtype: str, rows: int, base: Array) -> bytes:
    """Body of a blob for the flat tensor ``stored`` (storage type ``dtype``) and its base."""
    delta = (_floats(stored, dtype) - _floats(base, dtype)).reshape(rows, -1)
    if not np.isfinite(delta).all():
        raise InputError("NaN or infinity cannot be stored approximately", hint="store it exactly")
    if option.name == "int8":
        return _encode_int8(delta)
    if option.name == "sign":
        scale = np.float32(np.mean(np.abs(delta), dtype=np.float64))
        signs = np.packbits(delta.reshape(-1) >= 0)
        return b"".join(part.tobytes() for part in (scale, signs))
    return _encode_low_rank(delta, option.rank)


def decode(name: str, body: memoryview, dtype: str, rows: int, base: Array) -> Array:
    """The approximate tensor in storage type ``dtype``, flat."""
    values = _floats(base, dtype)
    grid = values.reshape(rows, -1)
    if name == "int8":
        grid += _decode_int8(body, grid.shape)
    elif name == "sign":
        scale = np.frombuffer(body[:4], np.float32)[0]
        packed = np.frombuffer(body[4:], np.uint8)
        if packed.size != (values.size + 7) // 8:
            raise CheckpointError("its signs have another number than the tensor's values")
        up = np.unpackbits(packed, count=values.size).view(np.bool_)
        values += np.where(up, scale, -scale)
    else:
        _add_low_rank(body, grid)
    return narrow(values, dtype, np.empty(values.size, STORAGE[dtype]))


def _encode_int8(delta: Array) -> bytes:
    """A scale a row, and the rounded multiples of it as a plane."""
    scale = (np.abs(delta).max(axis=1) / 127.0).astype(np.float32)
    divisor = np.where(scale > 0, scale, 1.0).astype(np.float32)
    steps = np.clip(np.rint(delta / divisor[:, None]), -127, 127).astype(np.int8)
    return b"".join([scale.tobytes(), *codec.encode(steps.reshape(-1).view("u1"), floating=False)])


def _decode_int8(body: memoryview, shape: tuple[int, ...]) -> Array:
    rows, columns = shape
    scale = np.frombuffer(body[: 4 * rows], np.float32)
    steps = np.empty(rows * columns, np.uint8)
    codec.decode(body[4 * rows :], steps, floating=False)
    return steps.view(np.int8).reshape(shape).astype(np.float32) * scale[:, None]


def _encode_low_rank(delta: Array, rank: int) -> bytes:
    """Singular values in float32, singular vectors in float16 scaled to at most one."""
    left, values, right = _svd(delta, rank)
    left_top, right_top = np.abs(left).max(axis=0), np.abs(right).max(axis=1)
    left_top[left_top == 0] = 1.0
    right_top[right_top == 0] = 1.0
    values = (values * left_top * right_top).astype(np.float32)
    halves = ((left / left_top).T.astype(np.float16), (right / right_top[:, None]).astype("f2"))
    return b"".join(np.ascontiguousarray(part).tobytes() for part in (values, *halves))


def _svd(delta: Array, rank: int) -> tuple[Array, Array, Array]:
    """The leading part of a singular value decomposition, by the smaller side's Gram matrix.

    Exact up to float64 rounding of the Gram matrix, which an approximation of 16 bits does not see,
    and much cheaper than the full decomposition of an embedding table.
    """
    wide = delta.astype(np.float64)
    if wide.shape[0] > wide.shape[1]:
        left, values, right = _svd(delta.T, rank)
        return right.T, values, left.T
    squares, vectors = np.linalg.eigh(wide @ wide.T)
    left = vectors[:, ::-1][:, :rank]
    values = np.sqrt(np.maximum(squares[::-1][:rank], 0.0))
    right = left.T @ wide
    right /= np.where(values > 0, values, 1.0)[:, None]
    return left, values, right


def _add_low_rank(body: memoryview, grid: Array) -> None:
    rows, columns = grid.shape
    rank, rest = divmod(len(body), 4 + 2 * (rows + columns))
    if rest or not rank:
        raise CheckpointError("its factors do not fit the tensor")
    values = np.frombuffer(body[: 4 * rank], np.float32)
    left_end = 4 * rank + 2 * rank * rows
    left = np.frombuffer(body[4 * rank : left_end], np.float16).reshape(rank, rows)
    right = np.frombuffer(body[left_end:], np.float16).reshape(rank, columns)
    wide = right.astype(np.float32)
    step = max(1, (1 << 16) // columns)
    spare = np.empty((min(step, rows), columns), np.float32)
    for start in range(0, rows, step):
        piece = grid[start : start + step]
        for index in range(rank):
            column = left[index, start : start + step].astype(np.float32) * values[index]
            product = spare[: len(piece)]
            np.multiply(column[:, None], wide[index], out=product)
            piece += product


def _floats(stored: Array, dtype: str) -> Array:
    """Values as float32 (float64 for F64) in memory of their own."""
    kind = np.float64 if dtype == "F64" else np.float32
    return widen(stored, dtype, np.empty(stored.size, kind))
