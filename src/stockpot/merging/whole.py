"""Methods that see the whole model at once (``granularity="model"``): results stay in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stockpot.checkpoints import TensorInfo
from stockpot.checkpoints.dtypes import code_of
from stockpot.errors import MethodError
from stockpot.merging.block import Array, Block, TensorShape
from stockpot.merging.engine import Options, Work, load_block
from stockpot.merging.numpy_backend import NumpyBackend
from stockpot.merging.sinks import MemorySink


class LoadedModels:
    """What such a method is given: a way to read each tensor of all models (see ``Models``)."""

    def __init__(self, works: Sequence[Work], options: Options, backend: NumpyBackend) -> None:
        self._works = {work.info.name: work for work in works}
        self._options = options
        self._backend = backend
        self.xp = backend.xp
        self.count = len(works[0].models)
        self.seed = works[0].seed
        self.tensors: Sequence[TensorShape] = [work.shape for work in works]

    def read(self, name: str) -> Block:
        work = self._works[name]
        # Methods may hold a block while they read the next one: no shared scratch.
        fresh = self._options.backend()
        return load_block(
            work, fresh, 0, work.info.size, work.info.shape, self._options, check=True
        )


def combine_whole(works: Sequence[Work], options: Options) -> MemorySink:
    """Run each method once over all its tensors.

    The sink holds every tensor of ``works``, rounded to its type, and what the methods added.
    Raises ``MethodError`` for a method that leaves a tensor out.
    """
    groups: dict[str, list[Work]] = {}
    for work in works:
        groups.setdefault(f"{work.method.name} {work.parameters}", []).append(work)
    backend = options.backend()
    sink = MemorySink({})
    for group in groups.values():
        first = group[0]
        models = LoadedModels(group, options, backend)
        infos = {work.info.name: work.info for work in group}
        for name, values in _pairs(first.method.combine(models, **first.arguments)):
            if name in infos:
                sink.add(infos[name])
                backend.store(values, infos[name].dtype, sink.stored[name])
            else:
                host = values if isinstance(values, np.ndarray) else np.asarray(values.cpu())
                code = code_of(host)
                if code is None:
                    raise MethodError(
                        f"method '{first.method.name}' returned '{name}' as {host.dtype}"
                    )
                sink.add(TensorInfo(name, host.shape, code))
                sink.write(name, 0, host)
        missing = [name for name in infos if name not in sink.tensors]
        if missing:
            raise MethodError(f"method '{first.method.name}' gave no '{missing[0]}'")
    return sink


def _pairs(result: Mapping[str, Array] | Iterable[tuple[str, Array]]) -> Iterable[Any]:
    return result.items() if isinstance(result, Mapping) else result
