"""A job: files in, files out, named by the hash of everything that went in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from stockpot.files import digest
from stockpot.version import VERSION

Arguments = dict[str, Any]
"""Keyword arguments of a job's function: JSON values."""


@dataclass(frozen=True, eq=False)
class Job:
    """One call of ``function(folder, inputs, **arguments, **places)`` that fills ``folder``.

    Attributes:
        function: ``"package.module:function"``. It gets the folder to write to, the folders of its
            ``inputs`` by name, and ``arguments``. The folder may hold what an interrupted attempt
            left there: a long job can go on from it.
        arguments: JSON values; with ``function`` and the keys of ``inputs`` they name the job.
        inputs: jobs whose folders this one reads.
        places: more arguments, which say where things are and not what they are; not part of the
            name.
        label: what people see; not part of the name.
        threads: of the processor; part of the name, because sums depend on their order.
        weight: relative length, for the progress bar; not part of the name.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Job] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    threads: int = 1
    weight: float = 1.0

    @cached_property
    def key(self) -> str:
        """20 hex digits of the SHA-256 of all that went in, the version of stockpot included."""
        inputs = {name: job.key for name, job in self.inputs.items()}
        what = [VERSION, self.function, dict(self.arguments), inputs, self.threads]
        return digest(what)[:20]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class Ticket:
    """A job made ready for a worker: plain values only, so that it travels to any process."""

    key: str
    function: str
    arguments: Mapping[str, Any]
    inputs: Mapping[str, str]
    folder: str
    threads: int


@dataclass(frozen=True)
class Outcome:
    """What became of a ticket.

    ``error`` is empty on success. ``folder`` is where it worked, if not in the ticket's.
    """

    key: str
    seconds: float
    error: str = ""
    traceback: str = ""
    user_error: bool = False
    folder: str = ""


class Backend(Protocol):
    """Where tickets are worked on. Three methods, so that a cluster is easy to add."""

    workers: int

    def submit(self, ticket: Ticket) -> None:
        """Take a ticket; never blocks for the length of a job. At most ``workers`` at a time."""

    def wait(self) -> Outcome:
        """Block until one submitted ticket is finished or failed."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop at once; whatever is running is abandoned in a resumable state."""


def in_order(jobs: list[Job], finished: Callable[[Job], bool] = lambda job: False) -> Iterator[Job]:
    """All jobs and their inputs, each once, inputs first; a ``finished`` job needs no inputs."""
    seen: set[str] = set()

    def visit(job: Job) -> Iterator[Job]:
        if job.key in seen:
            return
        seen.add(job.key)
        if not finished(job):
            for needed in job.inputs.values():
                yield from visit(needed)
        yield job

    for job in jobs:
        yield from visit(job)


def perform(ticket: Ticket) -> Outcome:
    """Run a ticket in this process. Every exception becomes an ``Outcome``, except an interrupt."""
    import time
    import traceback

    from stockpot.errors import InputError
    from stockpot.extras import explained

    start = time.perf_counter()
    try:
        limit_threads(ticket.threads)
        module, _, name = ticket.function.partition(":")
        function = getattr(import_module(module), name)
        limit_threads(ticket.threads)
        inputs = {name: Path(folder) for name, folder in ticket.inputs.items()}
        function(Path(ticket.folder), inputs, **ticket.arguments)
    except Exception as error:
        cause = explained(error) or error
        return Outcome(
            ticket.key,
            time.perf_counter() - start,
            error=str(cause) or type(cause).__name__,
            traceback=traceback.format_exc(),
            user_error=isinstance(cause, InputError),
        )
    return Outcome(ticket.key, time.perf_counter() - start)


def limit_threads(threads: int) -> None:
    """Let torch compute with ``threads`` threads: results of reductions depend on their number."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
