"""A checkpoint whose encoded weights are read as the floats that they stand for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.composite import CompositeCheckpoint
from stockpot.checkpoints.dtypes import STORAGE, Array, encode, first_nonfinite, is_float
from stockpot.checkpoints.header import TensorInfo

RESULT = "BF16"
"""Type under which a decoded weight is known, and written where nothing else is asked for."""

_NAMES = (".quant_map", ".absmax", "weight_scale", "weight_scale_inv", "weight_shape", "_blocks")
_TABLES = 16  # decoded weights whose tables of scales are kept at a time


class DecodedCheckpoint(Checkpoint):
    """Names, shapes and values as before the quantisation; ``decode`` gives float32, not rounded
    in between.

    Attributes:
        stored: the checkpoint as it lies there.
        formats: encoding of each decoded tensor, a key of ``encodings.formats.FORMATS``.
        left_out: stored tensors that mean nothing for plain weights (scales of activations).
    """

    def __init__(self, stored: Checkpoint) -> None:
        from stockpot.checkpoints.encodings.detect import detect

        detected = detect(stored)
        self._stored = stored
        self._weights = {weight.name: weight for weight in detected.weights}
        self.formats = {weight.name: weight.format for weight in detected.weights}
        self.left_out = detected.left_out
        decoded = {part: weight for weight in detected.weights for part in weight.parts}
        dropped = {*decoded, *detected.left_out}
        tensors: dict[str, TensorInfo] = {}
        for name, info in stored.tensors.items():
            if name in decoded:
                weight = decoded[name]
                tensors.setdefault(weight.name, TensorInfo(weight.name, weight.shape, RESULT))
            elif name not in dropped:
                tensors[name] = info
        super().__init__(tensors, label=stored.label, path=stored.path, metadata=stored.metadata)
        self._values = lru_cache(maxsize=_TABLES)(lambda name: self._weights[name].build())

    @property
    def stored(self) -> Checkpoint:
        return self._stored

    @property
    def notes(self) -> list[str]:
        from stockpot.checkpoints.encodings.formats import FORMATS

        notes = [
            f"{self.label}: {count} weights were decoded from {FORMATS[key].title}"
            for key, count in Counter(self.formats.values()).items()
        ]
        if self.left_out:
            notes.append(
                f"{self.label}: '{self.left_out[0]}' and {len(self.left_out) - 1} more tensors "
                "are of use to quantised arithmetic alone and were left out"
            )
        return notes

    def raw(self, name: str) -> Array:
        if name not in self._weights:
            return self._stored.raw(name)
        info = self.info(name)
        values = self._read(name, 0, info.size)
        return encode(values, info.dtype, np.empty(info.size, STORAGE[info.dtype]))

    def decode(self, name: str, start: int, stop: int, out: Array) -> Array:
        if name not in self._weights:
            return self._stored.decode(name, start, stop, out)
        if stop > start:
            np.copyto(out, self._read(name, start, stop), casting="unsafe")
        return out

    def read(self, name: str) -> Array:
        if name not in self._weights:
            return self._stored.read(name)
        info = self.info(name)
        return self._read(name, 0, info.size).reshape(info.shape)

    def blocks(self, name: str, elements: int) -> Iterator[Array]:
        if name not in self._weights:
            yield from self._stored.blocks(name, elements)
            return
        size = self.info(name).size
        for start in range(0, size, elements):
            yield self._read(name, start, min(start + elements, size))

    def first_nonfinite(self, name: str, start: int, stop: int) -> int | None:
        if name not in self._weights:
            return self._stored.first_nonfinite(name, start, stop)
        values = self._read(name, start, stop) if stop > start else np.empty(0, np.float32)
        at = first_nonfinite(np.ascontiguousarray(values), "F32")
        return None if at is None else start + at

    def _read(self, name: str, start: int, stop: int) -> Array:
        from stockpot.checkpoints.encodings.detect import fitting

        # Scales that overflow give values that are not finite, which is found where it matters.
        with fitting(self.label, name), np.errstate(all="ignore"):
            return self._values(name).read(start, stop)

    def prefetch(self, name: str) -> None:
        for part in self._weights[name].parts if name in self._weights else (name,):
            self._stored.prefetch(part)

    def digest(self) -> str:
        """Of what is stored: a model is recognised however it is read."""
        return self._stored.digest()

    def close(self) -> None:
        self._values.cache_clear()
        self._stored.close()


def decoded(stored: Checkpoint) -> Checkpoint:
    """``stored`` with its encoded weights decoded; itself where it has none.

    Raises ``CheckpointError`` that names an encoding that is not decoded.
    """
    if isinstance(stored, CompositeCheckpoint):
        return stored.mapped(decoded)
    if not _may_be_encoded(stored):
        return stored
    checkpoint = DecodedCheckpoint(stored)
    return checkpoint if checkpoint.formats or checkpoint.left_out else stored


def _may_be_encoded(stored: Checkpoint) -> bool:
    """Whether there are integers that could be weights, 8-bit floats, or names of an encoding.

    Cheap: every checkpoint is asked. Each encoding stores its weights as integers or 8-bit floats,
    bitsandbytes in a type of the user's choice.
    """
    return any(
        info.dtype.startswith("F8")
        or (not is_float(info.dtype) and info.dtype not in ("I64", "BOOL"))
        or name.endswith(_NAMES)
        for name, info in stored.tensors.items()
    )
