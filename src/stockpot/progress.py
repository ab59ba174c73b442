"""How far something is, on stderr: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]

EVERY = 30.0
"""Seconds between two lines in a log."""
_ENOUGH = 0.05  # share of the work after which it may be said how long the rest takes
_AT_ONCE = 1.0  # seconds: what is done within them was done by an earlier run


@contextmanager
def progress(description: str, total: float, *, quiet: bool = False) -> Iterator[Advance]:
    """Show how far the block is while it runs.

    Yields ``advance(amount=1, description=None)``. A terminal gets a bar; anything else, such as
    the log of a batch system, a line every ``EVERY`` seconds. Nothing is shown when ``quiet`` or
    under ``NO_PROGRESS``.
    """
    if quiet or os.environ.get("NO_PROGRESS"):
        yield lambda amount=1, description=None: None
        return
    if not sys.stderr.isatty():
        with _Log(description, total) as log:
            yield log.advance
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)

        def advance(amount: float = 1, description: str | None = None) -> None:
            if description is not None:
                bar.update(task, description=description)
            bar.advance(task, amount)

        yield advance


class _Log:
    """Lines about one piece of work, from a thread of its own: work may not call for minutes."""

    def __init__(self, title: str, total: float) -> None:
        self._title, self._total = title, total
        self._done = self._before = 0.0
        self._doing: str | None = None
        self._begun = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> _Log:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def advance(self, amount: float = 1, description: str | None = None) -> None:
        self._done += amount
        if time.monotonic() - self._begun < _AT_ONCE:
            self._before = self._done
        self._doing = description if description is not None else self._doing

    def _write(self) -> None:
        while not self._ended.wait(EVERY):
            print(self.line(), file=sys.stderr, flush=True)  # noqa: T201

    def line(self) -> str:
        """Such as ``recycling: 40 % after 2 min, about 3 min left (last: soup)``."""
        seconds = time.monotonic() - self._begun
        text = (
            f"{self._title}: {100 * self._done / (self._total or 1):.0f} % after {_time(seconds)}"
        )
        new = self._done - self._before
        if new >= _ENOUGH * self._total:
            text += f", about {_time(seconds * max(self._total - self._done, 0) / new)} left"
        return text if self._doing is None else f"{text} (last: {self._doing})"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
