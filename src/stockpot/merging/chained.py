"""A merge as a source of another one, computed as it is read where its methods allow that.

Values are not rounded in between: an inner result is passed on in the float type it was calculated
in. Methods that need rows, whole tensors or sums over the model are run first, into memory.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np

from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.checkpoints.dtypes import STORAGE, Array, encode
from stockpot.merging.engine import Copy, Engine, Options, Work, load_block
from stockpot.merging.numpy_backend import NumpyBackend
from stockpot.merging.sinks import MemorySink, Nowhere

_WIDE = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64"}


class PlannedMerge(Protocol):
    """What is asked of a merge whose result is read as a checkpoint; ``MergeJob`` is one."""

    tasks: list[Work | Copy]

    @property
    def label(self) -> str: ...

    def prepare(self) -> dict[str, TensorInfo]: ...

    def recipe(self) -> dict[str, Any]: ...

    def write_companions(self, folder: Path) -> bool: ...

    def close(self) -> None: ...


class MergedCheckpoint(Checkpoint):
    """The result of a planned merge, before it is written anywhere."""

    def __init__(self, job: PlannedMerge, options: Options) -> None:
        self.job = job
        self._options = options
        self._local = threading.local()
        self._lock = threading.Lock()
        super().__init__(job.prepare(), label=job.label)
        self.recipe = job.recipe()
        self._works = {task.info.name: task for task in job.tasks}
        self._ready: set[str] = set()
        self._held = self._run_first()
        self._folder: TemporaryDirectory[str] | None = None
        self._has_home = False

    def _run_first(self) -> Checkpoint | None:
        """Results that cannot be streamed, held in memory."""
        held = [task for task in self._works.values() if not _streams(task)]
        if not held:
            return None
        wide = [_widened(task) for task in held]
        sink = MemorySink({work.info.name: work.info for work in wide})
        Engine(sink, self._options).run(wide)
        return sink.checkpoint(self.label)

    def decode(self, name: str, start: int, stop: int, out: Array) -> Array:
        if stop <= start:
            return out
        if self._held is not None and name in self._held:
            return self._held.decode(name, start, stop, out)
        work = self._works[name]
        if isinstance(work, Copy):
            return work.source.decode(name, start, stop, out)
        self._prepare(work)
        backend = self._backend()
        block = load_block(work, backend, start, stop, (stop - start,), self._options, check=True)
        np.copyto(out, work.method.combine(block, **work.arguments), casting="unsafe")
        return out

    @property
    def home(self) -> Path | None:
        """A folder with the config and tokenizer that the result would have on disk."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="stockpot-")
            self._has_home = self.job.write_companions(Path(self._folder.name))
        return Path(self._folder.name) if self._has_home else None

    def raw(self, name: str) -> Array:
        work, info = self._works[name], self.info(name)
        if isinstance(work, Copy):
            return work.source.raw(name)
        values = np.empty(info.size, work.dtype)
        self.decode(name, 0, info.size, values)
        return encode(values, info.dtype, np.empty(info.size, STORAGE[info.dtype]))

    def first_nonfinite(self, name: str, start: int, stop: int) -> int | None:
        # The parents are checked when they are read; asking for values here would merge twice.
        return None

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
        self.job.close()

    def _prepare(self, work: Work) -> None:
        """Run the passes of a tensor once."""
        if not work.passes:
            return
        with self._lock:
            if work.info.name not in self._ready:
                Engine(Nowhere(), replace(self._options, threads=1)).reduce_only(work)
                self._ready.add(work.info.name)

    def _backend(self) -> NumpyBackend:
        if not hasattr(self._local, "backend"):
            self._local.backend = NumpyBackend()
        backend: NumpyBackend = self._local.backend
        return backend


def _streams(task: Work | Copy) -> bool:
    if isinstance(task, Copy):
        return True
    whole = any(step.scope == "model" for step in task.passes)
    return not whole and task.method.granularity_for(task.parameters) == "block"


def _widened(task: Work | Copy) -> Any:
    """The same work with a result in the float type it is calculated in."""
    if isinstance(task, Copy):
        return task
    info = TensorInfo(task.info.name, task.info.shape, _WIDE[task.dtype])
    return replace(task, info=info)


def open_merged(job: PlannedMerge, options: Options) -> MergedCheckpoint:
    """A planned merge as a checkpoint."""
    return MergedCheckpoint(job, options)
