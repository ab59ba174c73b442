"""Jobs on the machines of a Ray cluster.

Ray places tasks, counts processors and (fractions of) GPUs, and runs a task again when its machine
is lost. Nothing but tickets and outcomes goes through it: weights and data are files on storage
that all machines mount under the same path.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from stockpot.errors import InputError, JobError
from stockpot.execution.attempts import take_over
from stockpot.execution.job import Outcome, Ticket, perform
from stockpot.extras import require
from stockpot.version import VERSION

_AT_ONCE = 10_000  # Ray queues what has no place yet; a cluster that grows by itself looks at that
_LOOK = 5.0  # seconds between looks at whether the cluster can run the jobs at all
_STORE = 100_000_000  # bytes of Ray's object store, where a cluster is started here


class Ray:
    """Each ticket is one Ray task.

    Args:
        address: ``"ray://HOST:10001"`` of a cluster elsewhere, ``"HOST:6379"`` or ``"auto"`` on one
            of its machines. None: ``RAY_ADDRESS``, else a cluster that runs on this machine, else
            one is started here and ended with the run.
        workers: most jobs at a time (default: what the cluster has room for).
        gpus: GPUs of a job, such as 0.25 for four jobs on each (default: one where the cluster has
            any).
        retries: how often a job is tried again when its process or machine is lost.
        patience: seconds to wait for a machine large enough for the jobs.

    Raises:
        MissingDependencyError: Ray is not installed.
        InputError: a number out of range; on ``submit``, a cluster that does not answer.
    """

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        *,
        gpus: float | None = None,
        retries: int = 3,
        patience: float = 300.0,
    ) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"ray: the number of jobs at a time must be at least 1, got {workers}")
        if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise InputError(f"ray: GPUs of a job are a fraction or a whole number, got {gpus:g}")
        require_ray()
        self.workers = workers or _AT_ONCE
        self._address, self._gpus = address, gpus
        self._retries, self._patience = retries, patience
        self._running: dict[Any, Ticket] = {}
        self._ray: Any = None
        self._connected = self._owned = False
        self._moved = 0.0

    def submit(self, ticket: Ticket) -> None:
        """Hand the ticket to the cluster, connecting to it first where that has not been done."""
        ray = self._connect()
        task = ray.remote(attempt).options(
            num_cpus=ticket.threads,
            num_gpus=self._gpus or 0,
            max_retries=self._retries,
            scheduling_strategy="SPREAD",
            # Read by OpenMP and BLAS when a worker imports them: sums depend on it.
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(ticket.threads)}},
            name=ticket.key,
        )
        self._running[task.remote(ticket, VERSION)] = ticket
        self._moved = time.monotonic()

    def wait(self) -> Outcome:
        """Block until a task has answered, or Ray has given it up."""
        ray = self._ray
        while True:
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_LOOK)
            if ready:
                break
            late = time.monotonic() - self._moved > self._patience
            if late and not any(self._fits(ticket) for ticket in self._running.values()):
                ticket = next(iter(self._running.values()))
                raise JobError(
                    f"no machine of the cluster has {_needs(ticket.threads, self._gpus)}",
                    hint="add such a machine, or ask for less",
                )
        ticket = self._running.pop(ready[0])
        self._moved = time.monotonic()
        try:
            outcome = ray.get(ready[0])
        except ray.exceptions.RayError as error:
            return Outcome(ticket.key, 0.0, error=_lost(error, self._retries), traceback=str(error))
        assert isinstance(outcome, Outcome)
        return outcome

    def close(self) -> None:
        """Cancel what is running, and end the cluster if it was started here."""
        if not self._connected:
            return
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running.clear()
        if self._owned:
            self._ray.shutdown()
        self._connected = self._owned = False

    def _connect(self) -> Any:
        if not self._connected:
            ready = is_connected()
            self._ray = connect(self._address)
            self._owned, self._connected = not ready, True
            if self._gpus is None:
                self._gpus = 1.0 if self._ray.cluster_resources().get("GPU", 0) else 0.0
        return self._ray

    def _fits(self, ticket: Ticket) -> bool:
        return any(
            node["Alive"]
            and node["Resources"].get("CPU", 0) >= ticket.threads
            and node["Resources"].get("GPU", 0) >= (self._gpus or 0)
            for node in self._ray.nodes()
        )


def attempt(ticket: Ticket, version: str) -> Outcome:
    """One attempt at a ticket, on the machine that Ray has chosen."""
    if version != VERSION:
        return Outcome(
            ticket.key,
            0.0,
            error=f"this machine has stockpot {VERSION}, the run was started by {version}",
        )
    try:
        folder = str(take_over(Path(ticket.folder)))
    except JobError as error:
        return Outcome(ticket.key, 0.0, error=str(error))
    return replace(perform(replace(ticket, folder=folder)), folder=folder)


def is_connected() -> bool:
    """Whether this process has its cluster already."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def connect(address: str | None, **more: Any) -> Any:
    """Ray's module, connected to a cluster, or to one that is started here (see ``Ray``).

    Raises ``MissingDependencyError``, or ``InputError`` where no cluster answers.
    """
    # Ray reports home unless told otherwise before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    require_ray()
    import ray

    if ray.is_initialized():
        return ray
    quiet = {"log_to_driver": False, "logging_level": "error", **more}
    wanted = address or os.environ.get("RAY_ADDRESS")
    try:
        if wanted is not None:
            ray.init(wanted, **quiet)
            return ray
        try:
            ray.init("auto", **quiet)
        except ConnectionError:
            ray.init("local", include_dashboard=False, object_store_memory=_STORE, **quiet)
    except (ConnectionError, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"no Ray cluster answers at {wanted or 'this machine'}: {reason}",
            hint="start one with `ray start --head`, or check --address",
        ) from error
    return ray


def require_ray() -> None:
    """Raise ``MissingDependencyError`` where Ray is not installed."""
    require("ray", "running jobs on a cluster")


def _lost(error: Exception, retries: int) -> str:
    return f"its machine or process was lost {retries + 1} times ({type(error).__name__})"


def _needs(threads: int, gpus: float | None) -> str:
    words = f"{threads} processor{'s'[: threads != 1]}"
    return f"{words} and {gpus:g} GPU{'s'[: gpus > 1]}" if gpus else words
