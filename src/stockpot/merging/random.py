"""Random numbers that belong to a place: seed, tensor, model and element, and nothing else."""

from __future__ import annotations

import hashlib

import numpy as np

_STRETCH = 65_536


def uniform(seed: int, name: str, model: int, start: int, count: int) -> np.ndarray:
    """Float32 numbers in [0, 1) for elements ``start ... start + count`` of a flattened tensor,
    (count,).

    Any way of cutting a tensor into pieces gives the same numbers: each stretch of 65,536
    elements has its own counter of a Philox generator keyed by seed, name and model.
    """
    key = hashlib.sha256(f"{seed}\0{model}\0{name}".encode()).digest()[:16]
    words = np.frombuffer(key, dtype=np.uint64)
    out = np.empty(count, dtype=np.float32)
    position = start
    while position < start + count:
        stretch, skip = divmod(position, _STRETCH)
        length = min(_STRETCH - skip, start + count - position)
        bits = np.random.Philox(key=words, counter=np.array([0, 0, stretch, 0], dtype=np.uint64))
        generator = np.random.Generator(bits)
        piece = out[position - start : position - start + length]
        if skip == 0:
            generator.random(length, dtype=np.float32, out=piece)
        else:
            piece[:] = generator.random(skip + length, dtype=np.float32)[skip:]
        position += length
    return out
