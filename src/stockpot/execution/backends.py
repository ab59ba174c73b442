"""Where jobs run: in this process, or in worker processes on this machine."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
from collections import deque
from contextlib import suppress

from stockpot.errors import InputError
from stockpot.execution.job import Backend, Outcome, Ticket, perform
from stockpot.execution.worker import Answer, Worker
from stockpot.system import usable_cores

_LOOK = 1.0  # seconds: where waiting cannot be interrupted, a Ctrl-C is heeded after so long


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
        self._gpus = visible_gpus()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._free_slots = list(range(workers - 1, -1, -1))

    def submit(self, ticket: Ticket) -> None:
        """Hand the ticket to an idle worker, starting one where there is none."""
        worker = self._idle.pop() if self._idle else self._start(ticket.threads)
        self._busy.add(worker)
        worker.send(ticket)

    def _start(self, threads: int) -> Worker:
        slot = self._free_slots.pop()
        gpu = self._gpus[slot % len(self._gpus)] if self._gpus else None
        return Worker(slot, self._answers, threads=threads, gpu=gpu)

    def wait(self) -> Outcome:
        """Block until a worker has answered or died."""
        while True:
            answer = self._next_answer()
            worker = answer.worker
            if worker in self._busy:
                break
            # An idle one has died: nobody waits for it, the next ticket gets a new one.
            self._idle.remove(worker)
            self._release(worker)
        self._busy.discard(worker)
        if answer.outcome is not None:
            self._idle.append(worker)
            return answer.outcome
        reason = worker.cause_of_death()
        self._release(worker)
        assert worker.ticket is not None
        return Outcome(worker.ticket.key, 0.0, error=f"its worker process died ({reason})")

    def _release(self, worker: Worker) -> None:
        worker.kill()
        self._free_slots.append(worker.slot)

    def _next_answer(self) -> Answer:
        while True:
            with suppress(queue.Empty):
                return self._answers.get(timeout=_LOOK)

    def close(self) -> None:
        """Kill the workers; a job that was running can be resumed later."""
        for worker in [*self._idle, *self._busy]:
            worker.kill()
        self._answers = queue.SimpleQueue()
        self._idle.clear()
        self._busy.clear()
        self._free_slots = list(range(self.workers - 1, -1, -1))


def visible_gpus() -> list[str]:
    """Names by which CUDA devices can be given to a process, without importing torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(index) for index, line in enumerate(listing.stdout.splitlines()) if "GPU" in line]


def make_backend(
    name: str | Backend,
    jobs: int | None = None,
    *,
    threads: int = 1,
    address: str | None = None,
    gpus_per_job: float | None = None,
) -> Backend:
    """``"serial"``, ``"local"`` processes or ``"ray"``; a ready backend is returned as it is.

    ``jobs``: how many at a time (default: locally one for every ``threads`` cores, on a cluster
    what it has room for). ``address`` and ``gpus_per_job`` are for ``"ray"``.

    Raises ``InputError`` for another name, and where an option is not for this backend;
    ``MissingDependencyError`` for Ray where it is not installed.
    """
    if name == "ray":
        from stockpot.execution.cluster import Ray

        return Ray(address, jobs, gpus=gpus_per_job)
    if address is not None or gpus_per_job is not None:
        raise InputError("address and gpus_per_job are for the backend 'ray'")
    if not isinstance(name, str):
        return name
    if name == "serial":
        return Serial()
    if name == "local":
        return Local(jobs if jobs is not None else max(1, usable_cores() // threads))
    raise InputError(f"unknown backend '{name}': choose 'serial', 'local' or 'ray'")
