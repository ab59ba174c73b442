"""A worker process and the two ends of its pipe: tickets in on its stdin, outcomes out on stdout.

A worker is a Python of its own that imports stockpot and nothing of the program that started it. So
a script needs no ``if __name__ == "__main__"``, and a notebook cell, ``python -c`` and a script on
stdin work like any other.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import spawn
from pathlib import Path
from typing import IO, Any

from stockpot.execution.job import Outcome, Ticket, perform

# The module search path comes first: stockpot itself may lie where only the parent looks.
_BOOT = "import sys; sys.path[:] = {path!r}; from stockpot.execution.worker import serve; serve()"


@dataclass(frozen=True)
class Answer:
    """What came out of a worker; ``outcome`` is None for one that has died."""

    worker: Worker
    outcome: Outcome | None


class Worker:
    """A running worker process. What it answers is put into ``answers``, from a thread.

    ``threads``: of the processor, read by OpenMP and BLAS when the worker imports them. ``gpu``:
    the CUDA device that it sees; None: all.
    """

    def __init__(
        self, slot: int, answers: queue.SimpleQueue[Answer], *, threads: int, gpu: str | None
    ) -> None:
        self.slot = slot
        self.ticket: Ticket | None = None
        # How far all jobs are is the parent's to show.
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NO_PROGRESS": "1"}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        # Interpreter options (warnings, isolation) are the parent's, as in multiprocessing.
        options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        code = _BOOT.format(path=[str(entry or Path.cwd()) for entry in sys.path])
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [os.fsdecode(spawn.get_executable()), *options, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._listener = threading.Thread(target=self._listen, args=(answers,), daemon=True)
        self._listener.start()

    def send(self, ticket: Ticket) -> None:
        """Hand over a ticket. A worker that is dead already says so through ``answers``."""
        self.ticket = ticket
        assert self.process.stdin is not None
        with suppress(OSError):  # its end of the pipe is closed; the listener notices
            _send(self.process.stdin, ticket)

    def kill(self) -> None:
        """End the process at once, wait for that, and close its pipes."""
        self.process.kill()
        self.process.wait()
        self._listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):  # a ticket was still on its way
                pipe.close()

    def cause_of_death(self) -> str:
        """Why the process ended, for people."""
        code = self.process.wait()
        if code == -getattr(signal, "SIGKILL", 9):
            return f"signal {-code}; out of memory?"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _listen(self, answers: queue.SimpleQueue[Answer]) -> None:
        assert self.process.stdout is not None
        while True:
            try:
                outcome = pickle.load(self.process.stdout)
            except Exception:  # the pipe has ended, perhaps amid an answer
                answers.put(Answer(self, None))
                return
            answers.put(Answer(self, outcome))


def serve() -> None:
    """A worker's life: answer tickets until the pipe closes, which it does with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    pipe_in, pipe_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Jobs that read find nothing, and what they print must not meet the answers.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    tickets: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(pipe_in, tickets), daemon=True).start()
    while True:
        _send(pipe_out, perform(tickets.get()))


def _receive(pipe: IO[bytes], tickets: queue.SimpleQueue[Ticket]) -> None:
    while True:
        try:
            ticket = pickle.load(pipe)
        except BaseException:  # the parent has closed the pipe, or is no more
            os._exit(1)
        tickets.put(ticket)


def _send(pipe: IO[bytes], value: Any) -> None:
    pickle.dump(value, pipe)
    pipe.flush()
