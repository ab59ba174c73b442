"""Made histories whose truth is known."""

from __future__ import annotations

import numpy as np

from stockpot.ranking.history import Table


def world(
    models: int = 60, tasks: int = 14, noise: float = 0.6, factors: int = 2, seed: int = 0
) -> Table:
    """A general order, ``factors`` directions in which tasks differ, and noise."""
    random = np.random.default_rng(seed)
    general = random.normal(size=(models, 1))
    special = random.normal(size=(models, factors)) @ random.normal(size=(factors, tasks))
    values = 70.0 + 5.0 * (general + 0.7 * special + noise * random.normal(size=(models, tasks)))
    return Table(
        tuple(f"m{i}" for i in range(models)), tuple(f"t{j}" for j in range(tasks)), values
    )


def split(table: Table, task: str) -> tuple[Table, dict[str, float]]:
    """The table without ``task``, and that task's results."""
    column = table.values[:, table.column[task]]
    return table.without_tasks([task]), dict(zip(table.models, column.tolist(), strict=True))
