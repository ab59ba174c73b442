"""The block engine: passes and combine over blocks of many tensors, on threads.

Work is linear in the number of tensors, memory is a few blocks for each worker, and nothing of
how the work was cut or shared shows in the result (see ``method.py`` for how sums are taken).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.checkpoints.dtypes import first_nonfinite, working_dtype
from stockpot.errors import NonFiniteError
from stockpot.memory import keep_freed_blocks
from stockpot.merging.block import CHUNK, Array, Block, BlockSums, Statistics, TensorShape, Unread
from stockpot.merging.method import Method, Pass
from stockpot.merging.numpy_backend import NumpyBackend
from stockpot.merging.pool import Flow, Piece, WorkerPool
from stockpot.system import usable_cores

_AHEAD = 256_000_000
"""Bytes of the parents that the disk is asked for before they are needed."""

Advance = Callable[[float], None]
Pieces = list[Piece[NumpyBackend]]


class Sink(Protocol):
    """Where results go: storage values at an element of a tensor, from any thread."""

    def write(self, name: str, start: int, stored: np.ndarray) -> None: ...

    def room(self, name: str, start: int, size: int) -> Iterator[np.ndarray]:
        """Pieces of memory for ``size`` values; each is filled before the next is asked for."""
        ...


@dataclass
class Work:
    """One tensor to merge: from what and how.

    ``statistics`` is filled by passes over this tensor, ``shared`` by passes over the whole model.
    """

    info: TensorInfo
    models: Sequence[Checkpoint]
    base: Checkpoint | None
    method: Method
    parameters: dict[str, Any]
    extras: dict[str, Sequence[Checkpoint]] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=dict)
    shared: Statistics = field(default_factory=dict)
    passes_done: int = 0
    checked: bool = False

    def __post_init__(self) -> None:
        self.sources = [*self.models] if self.base is None else [*self.models, self.base]
        self.dtype = working_dtype([source.info(self.info.name).dtype for source in self.sources])
        self.shape = TensorShape(self.info.name, self.info.shape)
        self.passes = self.method.passes_for(self.parameters)
        self.seed = self.parameters.get("seed", 0) if self.method.random else 0
        self.arguments = {
            name: value
            for name, value in self.parameters.items()
            if not (self.method.random and name == "seed")
        }

    @property
    def model_passes_left(self) -> int:
        """How many passes that sum over the whole model are still to come."""
        return sum(step.scope == "model" for step in self.passes[self.passes_done :])

    def facts(self) -> dict[str, Any]:
        """What the method wants in the report."""
        found = self.shared | self.statistics
        return {name: found[name] for name in self.method.report if name in found}


@dataclass(frozen=True)
class Copy:
    """One tensor that is taken over as it is."""

    info: TensorInfo
    source: Checkpoint


@dataclass(frozen=True)
class Options:
    """How to work. Nothing of it changes a bit of the result, ``backend`` of another device
    aside.
    """

    threads: int | None = None
    block_elements: int | None = None
    allow_nonfinite: bool = False
    backend: Callable[[], NumpyBackend] = NumpyBackend
    processes: int = 1


class Engine:
    """Merges tensors into a sink."""

    def __init__(self, sink: Sink, options: Options, advance: Advance | None = None) -> None:
        keep_freed_blocks()
        self._sink = sink
        self._options = options
        self._advance = advance or (lambda amount: None)
        self._pool: WorkerPool[NumpyBackend] = WorkerPool(
            options.threads or usable_cores(), options.backend
        )
        self._block = self._pool.contexts[0].block

    def run(self, works: Sequence[Work | Copy]) -> None:
        """Merge everything. Raises ``NonFiniteError`` for NaN or infinity, unless allowed."""
        self.model_passes(works)
        self._pool.run(
            self._merge(work) if isinstance(work, Work) else self._copy(work)
            for work in _prefetched([work for work in works if work.info.size])
        )

    def model_passes(self, works: Sequence[Work | Copy]) -> None:
        """Take all sums over the whole model."""
        for group in model_groups(works).values():
            for _ in range(group[0].model_passes_left):
                self.finish_model_pass(group, self.model_sums(group))

    def reduce_only(self, work: Work) -> None:
        """Run the passes of one tensor, so that its statistics are there."""
        self._pool.run(iter([self._passes(work)]))

    def model_sums(self, group: Sequence[Work]) -> BlockSums | None:
        """Run a group's passes up to the next one that sums over the whole model, and take that
        sum over these tensors. None where the method does without.
        """
        step = self._next_model_pass(group)
        if not step.needed(group[0].shared):
            return None
        sums = BlockSums()
        self._pool.run(self._reduce(work, step, sums) for work in group)
        return sums

    def finish_model_pass(self, group: Sequence[Work], sums: BlockSums | None) -> None:
        """End the pass that ``model_sums`` has begun, with sums over all tensors of the model."""
        step, first = self._next_model_pass(group), group[0]
        shared = first.shared
        if sums is not None:
            shared = dict(step.finish(shared | sums.values(), None, **first.arguments))
        for work in group:
            work.shared = shared
            work.passes_done += 1

    def _next_model_pass(self, group: Sequence[Work]) -> Pass:
        first = group[0]
        while first.passes[first.passes_done].scope == "tensor":
            step = first.passes[first.passes_done]
            self._pool.run(self._tensor_pass(work, step) for work in group)
            for work in group:
                work.passes_done += 1
        return first.passes[first.passes_done]

    def _elements(self, work: Work) -> int:
        """Of a block: what was asked for, else the same number of bytes for any dtype."""
        return self._options.block_elements or max(self._block * 4 // work.dtype.itemsize, 1)

    def _merge(self, work: Work) -> Flow[NumpyBackend]:
        yield from self._passes(work)
        yield self._combine(work)

    def _passes(self, work: Work) -> Flow[NumpyBackend]:
        for step in work.passes[work.passes_done :]:
            yield from self._tensor_pass(work, step)
            work.passes_done += 1

    def _tensor_pass(self, work: Work, step: Pass) -> Flow[NumpyBackend]:
        if not step.needed(work.shared | work.statistics):
            return
        sums = BlockSums()
        yield from self._reduce(work, step, sums)
        values = work.statistics | sums.values()
        work.statistics = dict(step.finish(values, work.shape, **work.arguments))

    def _reduce(self, work: Work, step: Pass, sums: BlockSums) -> Iterator[Pieces]:
        size = -(-self._elements(work) // CHUNK) * CHUNK
        if step.sample is not None and work.info.size > step.sample:
            runs = list(_runs(work.info.size, step.sample))

            def sample(backend: NumpyBackend) -> None:
                sums.add(step.reduce(load_runs(work, backend, runs), **work.arguments))

            yield [sample]
            return
        check, options = not work.checked, self._options
        work.checked = True
        later = check and step.shows_nonfinite

        def piece(start: int, stop: int) -> Piece[NumpyBackend]:
            def reduce(backend: NumpyBackend) -> None:
                shape = (stop - start,)
                check_now = check and not later
                block = load_block(work, backend, start, stop, shape, options, check=check_now)
                found = step.reduce(block, **work.arguments)
                if later and not all(statistic.finite() for statistic in found.values()):
                    _check_sources(work, start, stop, options)
                sums.add(found)

            return reduce

        spans = list(_spans(work.info.size, size))
        if (len(work.passes) - work.passes_done) % 2:
            # Every other time, the last one among them: what was read last is still in the cache.
            spans.reverse()
        yield [piece(start, stop) for start, stop in spans]

    def _combine(self, work: Work) -> Pieces:
        granularity = work.method.granularity_for(work.parameters)
        size, shape = work.info.size, work.info.shape
        columns = 1
        if granularity == "block":
            step = self._elements(work)
        elif granularity == "row":
            columns = work.shape.rows[1]
            step = max(self._elements(work) // columns, 1) * columns
        else:
            step = size
        check = not (work.checked or work.method.spreads_nonfinite)
        options = self._options

        def piece(start: int, stop: int) -> Piece[NumpyBackend]:
            if granularity == "block":
                view: tuple[int, ...] = (stop - start,)
            elif granularity == "row":
                view = ((stop - start) // columns, columns)
            else:
                view = shape or (1,)  # sums of arrays without an axis are no arrays

            def combine(backend: NumpyBackend) -> None:
                block = load_block(work, backend, start, stop, view, options, check=check)
                values = work.method.combine(block, **work.arguments)
                flat, place = values.reshape(-1), start
                for out in self._sink.room(work.info.name, start, stop - start):
                    own = flat[place - start : place - start + out.size]
                    backend.store(own, work.info.dtype, out)
                    if not options.allow_nonfinite:
                        _check_result(out, work, place)
                    place += out.size
                self._advance(stop - start)

            return combine

        return [piece(start, stop) for start, stop in _spans(size, step)]

    def _copy(self, work: Copy) -> Flow[NumpyBackend]:
        def piece(start: int, stop: int) -> Piece[NumpyBackend]:
            def copy(backend: NumpyBackend) -> None:
                self._sink.write(work.info.name, start, work.source.raw(work.info.name)[start:stop])
                self._advance(stop - start)

            return copy

        yield [piece(start, stop) for start, stop in _spans(work.info.size, self._block)]


def load_block(
    work: Work,
    backend: NumpyBackend,
    start: int,
    stop: int,
    view: tuple[int, ...],
    options: Options,
    *,
    check: bool,
) -> Block:
    """Elements ``start ... stop`` of a tensor's models and base, in the shape ``view``."""
    name = work.info.name
    if check:
        _check_sources(work, start, stop, options)

    def read(source: Checkpoint, place: int) -> Array:
        return backend.load(source, name, start, stop, work.dtype, place).reshape(view)

    base = None if work.base is None else read(work.base, len(work.models))

    def extra(kind: str, model: int) -> Array | None:
        files = work.extras.get(kind, ())
        if model >= len(files) or name not in files[model]:
            return None
        source = files[model]
        info = source.info(name)
        if info.shape != work.info.shape:
            whole = source.decode(name, 0, info.size, np.empty(info.size, work.dtype))
            return backend.upload(whole.reshape(info.shape))
        piece = source.decode(name, start, stop, np.empty(stop - start, work.dtype))
        return backend.upload(piece.reshape(view))

    return Block(
        work.shape,
        Unread(len(work.models), lambda number, place: read(work.models[number], place)),
        base,
        xp=backend.xp,
        start=start,
        statistics=work.shared | work.statistics,
        seed=work.seed,
        extra=extra,
    )


def load_runs(work: Work, backend: NumpyBackend, runs: Sequence[tuple[int, int]]) -> Block:
    """A flat block of a few runs of the tensor, side by side."""
    arrays = backend.gather(work.sources, work.info.name, runs, work.dtype)
    base = arrays.pop() if work.base is not None else None
    found = work.shared | work.statistics
    return Block(work.shape, arrays, base, xp=backend.xp, statistics=found, seed=work.seed)


def _check_sources(work: Work, start: int, stop: int, options: Options) -> None:
    if not options.allow_nonfinite:
        for source in work.sources:
            check_finite(source, work.info.name, start, stop)


def check_finite(source: Checkpoint, name: str, start: int, stop: int) -> None:
    """Raise ``NonFiniteError`` with the position of the first NaN or infinity in a piece."""
    place = source.first_nonfinite(name, start, stop)
    if place is None:
        return
    position = _position(place, source.info(name).shape)
    raise NonFiniteError(
        f"{source.label}: tensor '{name}' holds NaN or infinity at {position}",
        hint="repair the model, or allow it with --allow-nonfinite",
    )


def _check_result(stored: np.ndarray, work: Work, start: int) -> None:
    place = first_nonfinite(stored.reshape(-1), work.info.dtype)
    if place is not None:
        for source in work.sources:
            check_finite(source, work.info.name, start, start + stored.size)
        position = _position(start + place, work.info.shape)
        raise NonFiniteError(
            f"method '{work.method.name}' gives '{work.info.name}' a value beyond "
            f"{work.info.dtype} at {position}",
            hint="choose smaller coefficients, or dtype: bfloat16 or float32",
        )


def _position(place: int, shape: tuple[int, ...]) -> list[int]:
    return [int(i) for i in np.unravel_index(place, shape)] if shape else []


def model_groups(works: Sequence[Work | Copy]) -> dict[str, list[Work]]:
    """Works that wait for sums over the whole model, by method and parameters."""
    groups: dict[str, list[Work]] = {}
    for work in works:
        if isinstance(work, Work) and work.info.size and work.model_passes_left:
            groups.setdefault(f"{work.method.name} {work.parameters}", []).append(work)
    return groups


def _prefetched(works: Sequence[Work | Copy]) -> Iterator[Work | Copy]:
    """The works in their order, their files asked for some way ahead."""
    asked = ahead = 0
    for work in works:
        while asked < len(works) and ahead < _AHEAD:
            later = works[asked]
            for source in later.sources if isinstance(later, Work) else (later.source,):
                source.prefetch(later.info.name)
                ahead += later.info.nbytes
            asked += 1
        ahead -= work.info.nbytes * (len(work.sources) if isinstance(work, Work) else 1)
        yield work


def _runs(size: int, sample: int, count: int = 32) -> Iterator[tuple[int, int]]:
    """``count`` equal runs of together ``sample`` elements, spread evenly over ``size``."""
    length = sample // count
    for number in range(count):
        start = number * (size - length) // (count - 1)
        yield start, start + length


def _spans(size: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, step):
        yield start, min(start + step, size)
