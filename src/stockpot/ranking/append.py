"""Results of finished runs, appended to a history store for the next ranking."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.ranking.history import Store, Table
from stockpot.ranking.schema import RankResults


def append_results(store: str | Path, results: RankResults | Mapping[str, Any]) -> int:
    """Append every whole fine-tuning of a ranking to a history store; returns how many.

    ``results``: the content of ``rank``'s ``results.json``. The task's name there holds a hash of
    data and training, so that only equal conditions are compared. Appending again changes nothing.
    Scores go into the store's score log, from which later rankings learn what each is worth.
    """
    results = RankResults.read(results)
    task = results.task
    count = 0
    with Store.open(store) as opened:
        for model in results.models:
            if model.tuned is None or not model.tuned.whole:
                continue
            opened.add(
                model.name,
                task.history_name,
                task.metric,
                model.tuned.value,
                source="stockpot rank",
                data=task.name,
                facts=model.metadata,
            )
            count += 1
    _append_scores(score_log(store), results)
    return count


def score_log(store: str | Path) -> Path:
    """Where scores of a store's tasks are kept: beside it, since they are no results."""
    return Path(f"{store}.scores")


def past_scores(store: str | Path, table: Table) -> dict[str, np.ndarray]:
    """Score -> ``(M, T)`` aligned to ``table``, nan where none was computed; from the score log."""
    path = score_log(store)
    if not path.exists():
        return {}
    found: dict[str, np.ndarray] = {}
    with Store.open(path, create=False) as log:
        names = log.metrics() if log.sources() else []
        for name in names:
            known = log.table(metric=name)
            aligned = np.full(table.values.shape, np.nan)
            for model, row in known.row.items():
                for task, column in known.column.items():
                    if model in table.row and task in table.column:
                        value = known.values[row, column]
                        aligned[table.row[model], table.column[task]] = value
            if np.isfinite(aligned).any():
                found[name] = aligned
    return found


def _append_scores(path: Path, results: RankResults) -> None:
    with Store.open(path) as log:
        for model in results.models:
            for name, value in model.scores.items():
                log.add(
                    model.name,
                    results.task.history_name,
                    name,
                    value,
                    lower_is_better=False,
                    source="stockpot rank",
                )
