"""Which rows go into which step: a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stockpot.errors import TaskError
from stockpot.tasks import named_generator


class BalancedSampler:
    """``batch_size`` rows of every training domain per step, without end.

    A domain's rows come in a new random order each time they are used up, so that none comes again
    before all others have. The order of a domain depends on the seed and its name alone, and any
    step can be asked for in any order: a run that goes on after a kill sees the rows it would have
    seen.
    """

    def __init__(self, domains: Mapping[str, np.ndarray], batch_size: int, seed: int) -> None:
        empty = [name for name, rows in domains.items() if len(rows) == 0]
        if empty or not domains:
            raise TaskError(
                f"nothing to train on in domain '{empty[0]}'" if empty else "no domains"
            )
        self.domains = {name: np.asarray(rows) for name, rows in domains.items()}
        self.batch_size = batch_size
        self.seed = seed
        self._orders: dict[tuple[str, int], np.ndarray] = {}

    def rows(self, step: int) -> np.ndarray:
        """Rows of step 0, 1, ...: int64 (domains * batch_size,), one domain after the other."""
        parts = []
        for name, rows in self.domains.items():
            where = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
            epochs, places = np.divmod(where, len(rows))
            picked = np.empty(self.batch_size, dtype=np.int64)
            for epoch in np.unique(epochs):
                chosen = epochs == epoch
                picked[chosen] = rows[self._order(name, int(epoch))[places[chosen]]]
            parts.append(picked)
        return np.concatenate(parts)

    def _order(self, name: str, epoch: int) -> np.ndarray:
        key = (name, epoch)
        if key not in self._orders:
            for old in [k for k in self._orders if k[0] == name and k[1] < epoch - 1]:
                del self._orders[old]
            generator = named_generator(self.seed, "batches", name, epoch)
            self._orders[key] = generator.permutation(len(self.domains[name]))
        return self._orders[key]
