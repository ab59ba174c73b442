"""Threads that work through flows: sequences of stages, each a list of independent pieces.

A flow is a generator that yields lists of pieces; it is resumed when every piece of the last
list is done, by the worker that did the last one. A small tensor runs through its flow on one
worker, a large one is shared by all; at most a few flows are open at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Context = TypeVar("Context")
Piece = Callable[[Context], None]
Flow = Iterator[list[Callable[[Context], None]]]


@dataclass
class _Stage(Generic[Context]):
    flow: Flow[Context]
    left: int


class WorkerPool(Generic[Context]):
    """Runs flows on threads. Each worker has its own context, which pieces get (scratch memory)."""

    def __init__(self, workers: int, contexts: Callable[[], Context]) -> None:
        self.contexts = [contexts() for _ in range(max(workers, 1))]
        self._condition = threading.Condition()

    def run(self, flows: Iterable[Flow[Context]]) -> None:
        """Work until every flow has ended. The first error ends the work and is raised here."""
        self._waiting = iter(flows)
        self._pieces: deque[tuple[_Stage[Context], Piece[Context]]] = deque()
        self._open = 0
        self._error: BaseException | None = None
        others = [
            threading.Thread(target=self._work, args=(context,), daemon=True)
            for context in self.contexts[1:]
        ]
        for thread in others:
            thread.start()
        try:
            self._work(self.contexts[0])
        finally:
            with self._condition:
                # Reached by an interrupt as well: the other workers must not go on alone.
                if self._open or self._pieces:
                    self._error = self._error or KeyboardInterrupt()
                self._condition.notify_all()
            for thread in others:
                thread.join()
        if self._error is not None:
            raise self._error

    def _work(self, context: Context) -> None:
        # What overflows or divides by zero is looked for in the results, and named there.
        with np.errstate(all="ignore"):
            self._work_quietly(context)

    def _work_quietly(self, context: Context) -> None:
        while True:
            try:
                taken = self._take()
                if taken is None:
                    return
                stage, piece = taken
                if piece is not None:
                    piece(context)
                self._finished(stage)
            except BaseException as error:
                with self._condition:
                    self._error = self._error or error
                    self._condition.notify_all()
                return

    def _take(self) -> tuple[_Stage[Context], Piece[Context] | None] | None:
        """The next piece, or a new flow to open (piece None); None when there is nothing left."""
        with self._condition:
            while True:
                if self._error is not None:
                    return None
                if self._pieces:
                    return self._pieces.popleft()
                flow = next(self._waiting, None)
                if flow is not None:
                    self._open += 1
                    return _Stage(flow, 1), None
                if not self._open:
                    self._condition.notify_all()
                    return None
                self._condition.wait()

    def _finished(self, stage: _Stage[Context]) -> None:
        with self._condition:
            stage.left -= 1
            if stage.left:
                return
        for pieces in stage.flow:
            if pieces:
                following = _Stage(stage.flow, len(pieces))
                with self._condition:
                    self._pieces.extendleft((following, piece) for piece in reversed(pieces))
                    self._condition.notify_all()
                return
        with self._condition:
            self._open -= 1
            self._condition.notify_all()
