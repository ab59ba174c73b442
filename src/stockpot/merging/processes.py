"""A merge on several processes of this machine.

Threads take turns with Python's lock after every call of numpy, which costs two of them a fifth of
their time, and many of them more than they bring. Forked processes share the opened parents, write
to the same files, and send progress and facts back.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stockpot.checkpoints.writer import CheckpointWriter
from stockpot.errors import StockpotError
from stockpot.merging.engine import Advance, Copy, Engine, Options, Work
from stockpot.merging.numpy_backend import NumpyBackend

Task = Work | Copy

WORTH_IT = 32_000_000
"""Elements of the result from which starting processes pays."""
_MOST = 8  # each needs some 40 MB, and the memory bus is busy by then
_BLOCK = 1 << 18  # without a lock to share, what stays in the cache is best
_PAUSE = 0.1  # seconds between two words of progress
_STRETCHES = 8  # of neighbouring tensors, for each process


def worth_forking(tasks: Sequence[Task], options: Options) -> bool:
    """Whether to share this out: numpy blocks, many of them, where forking is sound."""
    return (
        options.processes > 1
        and options.backend is NumpyBackend
        and sys.platform == "linux"
        and hasattr(os, "fork")
        and sum(task.info.size for task in tasks) >= WORTH_IT
        and not any(isinstance(task, Work) and task.method.torch for task in tasks)
    )


def run_forked(
    tasks: Sequence[Task], sink: CheckpointWriter, options: Options, advance: Advance | None
) -> None:
    """Merge ``tasks`` into ``sink``; no pass over the whole model may be left to do.

    Raises what a process raises, and ``StockpotError`` for one that was killed.
    """
    import multiprocessing
    from multiprocessing.connection import Connection, wait

    fork = multiprocessing.get_context("fork")
    count = min(options.processes, _MOST)
    stretches = _stretches(tasks, count * _STRETCHES)
    tokens, feed = os.pipe()
    os.write(feed, bytes(range(len(stretches))))
    os.close(feed)
    own = replace(options, threads=1, processes=1, block_elements=options.block_elements or _BLOCK)
    talking: dict[Any, Any] = {}
    try:
        for _ in range(count):
            listen, speak = fork.Pipe(duplex=False)
            process = fork.Process(
                target=_work, args=(tokens, tasks, stretches, sink, own, speak), daemon=True
            )
            with warnings.catch_warnings():
                # Of forking beside threads: the children use none of them.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            speak.close()
            talking[listen] = process
        while talking:
            for pipe in wait(list(talking)):
                assert isinstance(pipe, Connection)
                try:
                    kind, value = pipe.recv()
                except EOFError:
                    talking[pipe].join()
                    raise StockpotError(
                        f"a process of the merge ended with code {talking[pipe].exitcode}",
                        hint="-9 is often a lack of memory; --threads 1 needs the least",
                    ) from None
                if kind == "end":
                    del talking[pipe]
                elif kind == "error":
                    raise value
                elif kind == "facts":
                    for number, statistics in value:
                        tasks[number].statistics = statistics
                elif kind == "digests":
                    assert sink.running is not None
                    sink.running.learn(value)
                elif advance is not None:
                    advance(value)
    finally:
        os.close(tokens)
        # One that is through needs no waiting for: it only gives its memory back.
        for process in talking.values():
            process.kill()
            process.join()


def _work(
    tokens: int,
    tasks: Sequence[Task],
    stretches: Sequence[range],
    sink: CheckpointWriter,
    options: Options,
    out: Any,
) -> None:
    """A process: take one stretch after another until none is left."""
    try:
        with sink.again() as own:
            said = _Said(out)
            engine = Engine(own, options, said.add)
            while token := os.read(tokens, 1):
                numbers = stretches[token[0]]
                engine.run([tasks[number] for number in numbers])
                said.tell()
                works = [(n, task) for n in numbers if isinstance(task := tasks[n], Work)]
                out.send(("facts", [(number, work.statistics) for number, work in works]))
            own.finish()
            if own.running is not None:
                out.send(("digests", own.running.complete(own.tensors)))
        out.send(("end", None))
    except BaseException as error:
        out.send(("error", _portable(error)))
        raise SystemExit(0) from None


class _Said:
    """Progress on its way to the parent, a few times a second: listening costs it time, too."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self._amount = 0.0
        self._last = time.monotonic()

    def add(self, amount: float) -> None:
        self._amount += amount
        if time.monotonic() - self._last > _PAUSE:
            self.tell()

    def tell(self) -> None:
        if self._amount:
            self._out.send(("done", self._amount))
        self._amount, self._last = 0.0, time.monotonic()


def _portable(error: BaseException) -> BaseException:
    """The error, or its words where it does not survive the way."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return StockpotError(f"{type(error).__name__}: {error}")
    return error


def _stretches(tasks: Sequence[Task], count: int) -> list[range]:
    """About ``count`` runs of neighbours of nearly the same number of elements, largest first.

    Neighbours in the file: what two processes write meets at the ends of stretches only.
    """
    share = sum(task.info.size for task in tasks) / count
    found: list[tuple[int, range]] = []
    first = done = 0
    for number, task in enumerate(tasks):
        done += task.info.size
        if done >= share or number == len(tasks) - 1:
            found.append((done, range(first, number + 1)))
            first, done = number + 1, 0
    return [numbers for _, numbers in sorted(found, key=lambda one: -one[0])]
