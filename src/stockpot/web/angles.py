"""Inspections on demand: one at a time, the latest kept."""

from __future__ import annotations

import threading
from collections import OrderedDict

from stockpot.inspection import Inspection
from stockpot.web import data

_KEPT = 32


class Angles:
    """Compares models of a registry when somebody asks, and remembers what was found.

    Weights are read from the disk and one comparison keeps every core busy, so that a second one
    waits for the first. Models never change: what was found stays true.
    """

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[tuple[str, ...], str | None], Inspection] = OrderedDict()
        self._turn = threading.Lock()

    def known(self, models: tuple[str, ...], base: str | None) -> Inspection | None:
        """What was found before; None if nothing was."""
        return self._found.get((models, base))

    def inspect(self, place: str, models: tuple[str, ...], base: str | None) -> Inspection:
        """Compare models by id, with the base they came from."""
        asked = (models, base)
        with self._turn:
            if asked not in self._found:
                self._found[asked] = data.inspect(place, models, base)
                if len(self._found) > _KEPT:
                    self._found.popitem(last=False)
            return self._found[asked]
