"""SIGTERM and SIGHUP end a run as Ctrl-C does: children and scratch files go, results stay."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_NAMES = ("SIGTERM", "SIGHUP")


class EndedBySignal(KeyboardInterrupt):
    """A signal asked the process to end; ``number`` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise ``EndedBySignal`` where a signal would end the process; later ones change nothing.

    Signals that somebody handles or ignores (``nohup``) are left alone, as are all of them outside
    the main thread.
    """
    known = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        known = []
    known = [one for one in known if signal.getsignal(one) is signal.SIG_DFL]

    def end(number: int, frame: Any) -> None:
        for one in known:
            signal.signal(one, signal.SIG_IGN)
        raise EndedBySignal(number)

    for one in known:
        signal.signal(one, end)
    try:
        yield
    finally:
        for one in known:
            signal.signal(one, signal.SIG_DFL)
