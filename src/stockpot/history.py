"""What is known already of models on tasks: add, import, show, and how well it predicts.

The functions are the commands of ``stockpot history``. A history is a :class:`Store` (one SQLite
file); where it is only read, a result file of another format will do, read as on import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from stockpot.errors import InputError
from stockpot.ranking.append import append_results
from stockpot.ranking.evaluate import evaluate as leave_out
from stockpot.ranking.evaluated import RankingEvaluation
from stockpot.ranking.history import (
    Fact,
    ImportReport,
    Reading,
    Store,
    Table,
    mean_scores,
    read_results,
)
from stockpot.ranking.posterior import Posterior, fit
from stockpot.reading import open_plain
from stockpot.recycling.schema import RecycleResults

__all__ = [
    "HistoryContents",
    "HistoryRow",
    "ImportReport",
    "Posterior",
    "RankingEvaluation",
    "Reading",
    "Store",
    "Table",
    "add",
    "append_recycled",
    "append_results",
    "evaluate",
    "fit",
    "import_results",
    "open_history",
    "show",
]


@dataclass(frozen=True)
class HistoryContents:
    """What a history holds: the table, its sources, and models set aside with the reason."""

    table: Table
    sources: Sequence[Mapping[str, str | int]]
    aside: Mapping[str, str]


@dataclass(frozen=True)
class HistoryRow:
    """One line to show: a model, or a task of one model.

    ``score``: mean normal score within tasks; ``value``: in the task's metric, where there is one
    task; ``tasks``: on how many the model has results.
    """

    name: str
    score: float
    value: float | None = None
    tasks: int | None = None


def add(
    store: str | Path,
    model: str,
    task: str,
    value: float,
    *,
    metric: str = "accuracy",
    lower_is_better: bool | None = None,
    source: str = "own",
    run: str = "",
    facts: Mapping[str, Fact] = MappingProxyType({}),
) -> None:
    """Add one result to a store, which is made if there is none; see :meth:`Store.add` and
    :meth:`Store.check_value`.
    """
    with Store.open(store) as opened:
        opened.check_value(task, metric, value)
        opened.add(
            model,
            task,
            metric,
            value,
            source=source,
            run=run,
            lower_is_better=lower_is_better,
            facts=facts,
        )


def import_results(
    store: str | Path,
    files: Sequence[str | Path],
    *,
    format: str = "auto",
    metadata: str | Path | None = None,
    base: str | None = None,
    clean: bool = True,
    reading: Reading = Reading(),
) -> list[ImportReport]:
    """Import result files, one report each; see :meth:`Store.import_csv`.

    ``reading``: what the files do not say themselves, such as ``Reading(metric="accuracy")``.
    """
    with Store.open(store) as opened:
        return [
            opened.import_csv(
                file, format, metadata=metadata, base=base, clean=clean, reading=reading
            )
            for file in files
        ]


def append_recycled(
    store: str | Path, results: RecycleResults, model: str | None = None
) -> tuple[str, str, float] | None:
    """Append what one plain fine-tuning of the base reached in a ``recycle`` run.

    ``model``: what the base is called in the store, by default its name in the recipe. The value is
    the mean over runs and held-out domains. Returns model, task and value; None where the recipe
    left that protocol out.
    """
    row = results.row("single")
    if row is None:
        return None
    task, name = results.task, model or results.backbone.name
    with Store.open(store) as opened:
        opened.add(
            name,
            task.name,
            task.metric,
            row.mean,
            lower_is_better=False,
            source="stockpot recycle",
            run=", ".join(row.domains),
            facts={"parameters": float(results.backbone.parameters)},
        )
    return name, task.name, row.mean


def show(
    store: str | Path | HistoryContents,
    *,
    task: str | None = None,
    model: str | None = None,
    limit: int = 20,
) -> list[HistoryRow]:
    """The best models of a history on average or on ``task``, or one model's results, at most
    ``limit``. Raises ``InputError`` for a task or model that it does not have.
    """
    table = (store if isinstance(store, HistoryContents) else open_history(store)).table
    for what, name, known in (("task", task, table.column), ("model", model, table.row)):
        if name is not None and name not in known:
            raise InputError(f"no {what} '{name}' in the history")
    if model is not None:
        row = table.row[model]
        return [
            HistoryRow(name, float(table.scores[row, j]), float(table.values[row, j]))
            for j, name in enumerate(table.tasks)
            if np.isfinite(table.values[row, j]) and task in (None, name)
        ][:limit]
    column = None if task is None else table.column[task]
    scores = mean_scores(table.scores) if column is None else table.scores[:, column]
    order = [i for i in np.argsort(-scores, kind="stable") if np.isfinite(scores[i])][:limit]
    return [
        HistoryRow(
            table.models[i],
            float(scores[i]),
            None if column is None else float(table.values[i, column]),
            int(np.isfinite(table.values[i]).sum()),
        )
        for i in order
    ]


def evaluate(
    history: str | Path | HistoryContents,
    *,
    anchors: Sequence[int] = (0, 5, 20),
    repeats: int = 3,
    seed: int = 0,
    tasks: Sequence[str] = (),
    every: int = 1,
    scores: Mapping[str, str | Path] = MappingProxyType({}),
    format: str = "auto",
    metadata: str | Path | None = None,
    clean: bool = True,
    reading: Reading = Reading(),
    quiet: bool = False,
) -> RankingEvaluation:
    """Leave one task out: how well do history, facts and a few real results rank the models?

    Args:
        history: a store, a result file or folder, or what :func:`open_history` gave.
        anchors: how many results of the task that is left out are revealed.
        repeats: draws of anchors for each task.
        tasks: hold out only tasks of these names or globs; ``every``: only each n-th of them.
        scores: transferability scores by name: CSV files, models x tasks.
        format, metadata, clean, reading: how a file is read, as for :func:`import_results`.

    Raises ``InputError`` if no task can be held out.
    """
    if not isinstance(history, HistoryContents):
        history = open_history(
            history, format=format, metadata=metadata, clean=clean, reading=reading
        )
    table = history.table
    return leave_out(
        table,
        anchors=sorted(set(anchors)),
        repeats=repeats,
        tasks=_held_out(table, tasks, every),
        scores={name: _aligned(table, file) for name, file in scores.items()},
        seed=seed,
        quiet=quiet,
    )


def open_history(
    path: str | Path,
    *,
    format: str = "auto",
    metadata: str | Path | None = None,
    base: str | None = None,
    clean: bool = True,
    reading: Reading = Reading(),
) -> HistoryContents:
    """What a store holds, or a result file read as on import.

    Raises ``InputError`` where a store is to be read in a way that only a file can be.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no file {path}", hint="make a store: stockpot history import STORE FILE")
    if path.is_dir() or not _is_sqlite(path):
        with Store.open(":memory:") as store:
            store.import_csv(
                path, format, metadata=metadata, base=base, clean=clean, reading=reading
            )
            return HistoryContents(store.table(), store.sources(), store.aside())
    if (format, metadata, base, reading) != ("auto", None, None, Reading()):
        raise InputError(
            f"{path} is a store: format, facts, metric and unit were settled by its import",
            hint="leave them out, or name the file itself",
        )
    with Store.open(path, create=False) as store:
        return HistoryContents(store.table(include_aside=not clean), store.sources(), store.aside())


def _held_out(table: Table, globs: Sequence[str], every: int) -> list[str]:
    names = [t for t in table.tasks if not globs or any(fnmatchcase(t, g) for g in globs)]
    if not names:
        raise InputError(f"no task is named {' or '.join(globs)}")
    return names[::every]


def _aligned(table: Table, file: str | Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Scores of a CSV file on the models and tasks of a table, nan where it has none."""
    own = read_results(Path(file), "matrix").table
    values = np.full(table.values.shape, np.nan)
    for i, model in enumerate(table.models):
        for j, task in enumerate(table.tasks):
            if model in own.row and task in own.column:
                values[i, j] = own.values[own.row[model], own.column[task]]
    if not np.isfinite(values).any():
        raise InputError(f"{file} shares no model and task with the history")
    return values


def _is_sqlite(path: Path) -> bool:
    try:
        with open_plain(path) as handle:
            return handle.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
