"""One progress bar with the time left, on stderr, and only where somebody watches."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]


@contextmanager
def progress(description: str, total: float, *, quiet: bool = False) -> Iterator[Advance]:
    """Show a bar while the block runs.

    Yields ``advance(amount=1, description=None)``. Nothing is drawn when ``quiet``, when stderr is
    no terminal, or under ``NO_PROGRESS``.
    """
    if quiet or not sys.stderr.isatty() or os.environ.get("NO_PROGRESS"):
        yield lambda amount=1, description=None: None
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
