"""Random numbers that belong to a place: seed, tensor, model and element, and nothing else.

The number of an element is a hash of its position under a key from seed, tensor name and model, so
any way of cutting a tensor into pieces gives the same numbers, at a nanosecond each.
"""

from __future__ import annotations

import hashlib

import numpy as np

_PAGE = 1 << 32
_PIECE = 1 << 17


def uniform(seed: int, name: str, model: int, start: int, count: int) -> np.ndarray:
    """Float32 numbers in [0, 1), multiples of 2^-24, for elements ``start ... start + count`` of a
    flattened tensor; shape (count,).
    """
    out = np.empty(count, dtype=np.float32)
    counters = np.arange(min(count, _PIECE), dtype=np.uint32)
    bits, shifted = np.empty_like(counters), np.empty_like(counters)
    for place in range(0, count, _PIECE):
        position, stop = start + place, min(place + _PIECE, count)
        length = stop - place
        # Positions are hashed as 32-bit numbers; each page of 2^32 has keys of its own. A piece
        # that crosses into the next page is done in two.
        until = min(length, _PAGE - position % _PAGE)
        for first, last in ((0, until), (until, length)):
            if first < last:
                _hash(
                    _keys(seed, name, model, (position + first) // _PAGE),
                    (position + first) % _PAGE,
                    counters[: last - first],
                    bits[: last - first],
                    shifted[: last - first],
                )
                bits[: last - first] >>= 8
                piece = out[place + first : place + last]
                np.multiply(bits[: last - first], np.float32(2.0**-24), out=piece)
    return out


def _keys(seed: int, name: str, model: int, page: int) -> np.ndarray:
    """Two 32-bit keys."""
    text = f"{seed}\0{model}\0{page}\0{name}".encode()
    return np.frombuffer(hashlib.sha256(text).digest()[:8], dtype="<u4").astype(np.uint32)


def _hash(
    keys: np.ndarray, start: int, counters: np.ndarray, bits: np.ndarray, shifted: np.ndarray
) -> None:
    """Write the hashes of ``start + counters`` into ``bits``; ``shifted`` is scratch.

    The mixer is ``triple32`` of Wellons 2018, "Prospecting for hash functions", with a key before
    it and one in its middle.
    """
    with np.errstate(over="ignore"):
        offset = np.uint32(start) + keys[0]
    np.add(counters, offset, out=bits)
    for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB), (14, None)):
        np.right_shift(bits, shift, out=shifted)
        bits ^= shifted
        if shift == 11:
            bits ^= keys[1]
        if factor is not None:
            bits *= np.uint32(factor)
