"""Where jobs run: in this process, or in worker processes on this machine."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
from collections import deque
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from stockpot.errors import InputError
from stockpot.execution.job import Backend, Outcome, Ticket, perform


class Serial:
    """One job after the other, in this process."""

    workers = 1

    def __init__(self) -> None:
        self._queue: deque[Ticket] = deque()

    def submit(self, ticket: Ticket) -> None:
        """Queue the ticket."""
        self._queue.append(ticket)

    def wait(self) -> Outcome:
        """Run the oldest ticket."""
        return perform(self._queue.popleft())

    def close(self) -> None:
        """Forget what is queued."""
        self._queue.clear()


class Local:
    """Worker processes that live as long as the backend, so that libraries are imported once.

    A worker that dies (out of memory, a crash) fails its job alone and is replaced. Workers end
    with the parent, even when that is killed. GPUs are dealt to workers in turn.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise InputError(f"local: the number of processes must be at least 1, got {workers}")
        self.workers = workers
        self._context = multiprocessing.get_context("spawn")
        self._gpus = visible_gpus()
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, _Worker] = {}
        self._free_slots = list(range(workers - 1, -1, -1))

    def submit(self, ticket: Ticket) -> None:
        """Hand the ticket to an idle worker, starting one where there is none."""
        if self._idle:
            worker = self._idle.pop()
        else:
            worker = _Worker(self._context, self._free_slots.pop(), self._gpus, ticket.threads)
        worker.ticket = ticket
        worker.pipe.send(ticket)
        self._busy[worker.pipe] = worker

    def wait(self) -> Outcome:
        """Block until a worker has answered or died."""
        pipe = wait(list(self._busy))[0]
        assert isinstance(pipe, Connection)
        worker = self._busy.pop(pipe)
        try:
            outcome = pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            self._free_slots.append(worker.slot)
            code = worker.process.exitcode
            reason = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            return Outcome(
                worker.ticket.key, 0.0, error=f"its worker process died ({reason}; out of memory?)"
            )
        self._idle.append(worker)
        assert isinstance(outcome, Outcome)
        return outcome

    def close(self) -> None:
        """Kill the workers; a job that was running can be resumed later."""
        for worker in [*self._idle, *self._busy.values()]:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
        self._idle.clear()
        self._busy.clear()
        self._free_slots = list(range(self.workers - 1, -1, -1))


class _Worker:
    ticket: Ticket

    def __init__(
        self,
        context: multiprocessing.context.SpawnContext,
        slot: int,
        gpus: list[str],
        threads: int,
    ) -> None:
        self.slot = slot
        self.pipe, theirs = context.Pipe()
        gpu = gpus[slot % len(gpus)] if gpus else None
        self.process: SpawnProcess = context.Process(
            target=_work, args=(theirs, gpu, threads), daemon=True
        )
        # Read by OpenMP and BLAS when the worker imports them, which is before its first line runs.
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = str(threads)
        try:
            self.process.start()
        finally:
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before
        theirs.close()


def _work(pipe: Connection, gpu: str | None, threads: int) -> None:
    """A worker's life: answer tickets until the pipe closes or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    while True:
        try:
            ticket = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(perform(ticket))


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def visible_gpus() -> list[str]:
    """Names by which CUDA devices can be given to a process, without importing torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(index) for index, line in enumerate(listing.stdout.splitlines()) if "GPU" in line]


def make_backend(name: str | Backend, workers: int | None = None) -> Backend:
    """``"serial"``, ``"local"`` (``workers`` processes; default: one per core) or ``"ray"``.

    A ready backend is returned as it is. Raises ``InputError`` for another name,
    ``MissingDependencyError`` for Ray where it is not installed.
    """
    if not isinstance(name, str):
        return name
    if name == "serial":
        return Serial()
    if name == "local":
        return Local(workers if workers is not None else len(os.sched_getaffinity(0)))
    if name == "ray":
        from stockpot.execution.cluster import Ray

        return Ray()
    raise InputError(f"unknown backend '{name}': choose 'serial', 'local' or 'ray'")
