"""Tensors of a model under other names and in another type: what a recipe reads of a model."""

from __future__ import annotations

import numpy as np

from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.checkpoints.dtypes import STORAGE, Array, decode, encode, is_float, working_dtype
from stockpot.merging.engine import Copy, Work
from stockpot.merging.method import get_method


class ViewedCheckpoint(Checkpoint):
    """Some tensors of ``source``, each under a name of its own.

    Floats are rounded to ``dtype``, or to the type that they are stored in: of a sum that is
    calculated as it is read (an adapter, another merge) the reader sees what a file would hold.
    """

    def __init__(self, source: Checkpoint, dtype: str | None) -> None:
        super().__init__({}, label=source.label, path=source.path, metadata=source.metadata)
        self._source, self._dtype = source, dtype
        self._origin: dict[str, str] = {}
        self._computed = type(source).decode is not Checkpoint.decode

    def show(self, name: str, theirs: str) -> TensorInfo:
        """Show the source's tensor ``theirs`` as ``name``."""
        info = self._source.info(theirs)
        code = self._dtype if self._dtype is not None and is_float(info.dtype) else info.dtype
        self._origin[name] = theirs
        self.tensors[name] = TensorInfo(name, info.shape, code)
        return self.tensors[name]

    def raw(self, name: str) -> Array:
        info, theirs = self.info(name), self._origin[name]
        if info.dtype == self._source.info(theirs).dtype:
            return self._source.raw(theirs)
        return self._rounded(name, 0, info.size)

    def decode(self, name: str, start: int, stop: int, out: Array) -> Array:
        theirs = self._origin[name]
        if self.info(name).dtype == self._source.info(theirs).dtype and not self._computed:
            return self._source.decode(theirs, start, stop, out)
        return decode(self._rounded(name, start, stop), self.info(name).dtype, out)

    def prefetch(self, name: str) -> None:
        self._source.prefetch(self._origin[name])

    def first_nonfinite(self, name: str, start: int, stop: int) -> int | None:
        return self._source.first_nonfinite(self._origin[name], start, stop)

    def _rounded(self, name: str, start: int, stop: int) -> Array:
        """Storage values of a piece, in the type that is shown."""
        code, theirs = self.info(name).dtype, self._origin[name]
        own = self._source.info(theirs).dtype
        values = np.empty(stop - start, working_dtype([code, own]))
        self._source.decode(theirs, start, stop, values)
        return encode(values, code, np.empty(stop - start, STORAGE[code]))


def taken(
    source: Checkpoint, theirs: str, name: str, dtype: str | None, scale: float = 1.0
) -> Work | Copy:
    """A tensor of a model under the name ``name``, times ``scale``."""
    view = ViewedCheckpoint(source, None)
    info = view.show(name, theirs)
    if not is_float(info.dtype):
        return Copy(info, view)
    method = get_method("mergekit:passthrough")
    arguments = method.resolve({"scale": [scale]}, models=1)
    return Work(TensorInfo(name, info.shape, dtype or info.dtype), [view], None, method, arguments)
