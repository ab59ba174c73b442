"""Inspections on demand: one at a time, the latest kept."""

from __future__ import annotations

import threading
from collections import OrderedDict

from stockpot.errors import StockpotError
from stockpot.inspection import Inspection
from stockpot.web import data

_KEPT = 200
_WAITING = 6


class BusyError(StockpotError):
    """So many comparisons wait already that the other pages would have to."""


class Angles:
    """Compares models of a registry when somebody asks, and remembers what was found.

    Weights are read from the disk and one comparison keeps every core busy, so that a second one
    waits for the first, and a few may wait. Models never change: what was found stays true.
    """

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[tuple[str, ...], str | None], Inspection] = OrderedDict()
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(_WAITING)

    def known(self, models: tuple[str, ...], base: str | None) -> Inspection | None:
        """What was found before; None if nothing was."""
        return self._found.get((models, base))

    def inspect(self, place: str, models: tuple[str, ...], base: str | None) -> Inspection:
        """Compare models by id, with the base they came from. Raises ``BusyError``."""
        asked = (models, base)
        if asked in self._found:
            return self._found[asked]
        if not self._places.acquire(blocking=False):
            raise BusyError(
                f"{_WAITING} comparisons are waiting already",
                hint="load the page again in a moment; what was compared is kept",
            )
        try:
            return self._in_turn(place, asked)
        finally:
            self._places.release()

    def _in_turn(self, place: str, asked: tuple[tuple[str, ...], str | None]) -> Inspection:
        with self._turn:
            if asked not in self._found:
                self._found[asked] = data.inspect(place, *asked)
                if len(self._found) > _KEPT:
                    self._found.popitem(last=False)
            return self._found[asked]
