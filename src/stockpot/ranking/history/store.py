"""The history: results of models on tasks, in one SQLite file that several runs may append to."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from stockpot.databases import check_tables
from stockpot.errors import InputError, OutputError
from stockpot.ranking.history.cleaning import Misplaced, misplaced, suspicious_zeros
from stockpot.ranking.history.importers import read_metadata, read_results
from stockpot.ranking.history.metrics import find_metric, resolve
from stockpot.ranking.history.sheet import Imported, Reading, listed
from stockpot.ranking.history.table import Fact, Table
from stockpot.reading import parse_json
from stockpot.results import ResultPart
from stockpot.schema import fields

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (
    name TEXT PRIMARY KEY, facts TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tasks (
    name TEXT PRIMARY KEY, data TEXT NOT NULL, position INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
    model TEXT NOT NULL REFERENCES models, task TEXT NOT NULL REFERENCES tasks,
    metric TEXT NOT NULL, source TEXT NOT NULL, run TEXT NOT NULL,
    value REAL NOT NULL, lower INTEGER NOT NULL DEFAULT 0, aside TEXT, added REAL NOT NULL,
    PRIMARY KEY (model, task, metric, source, run)
) WITHOUT ROWID;
"""


_Row = tuple[str, str, str, str, str, float, bool, str | None]


class ImportReport(ResultPart):
    """What an import brought: counts, the rows set aside with their reasons, and notes."""

    path: str
    format: str
    models: int
    tasks: int
    results: int
    aside: tuple[Misplaced, ...]
    notes: tuple[str, ...]


class Store:
    """Results as (model, task, metric, source, run) -> value. Open with :meth:`open`.

    Adding a result again replaces it. Several processes may read and append at once (SQLite in WAL
    mode; a writer waits up to 30 s for another). Use as a context manager, or ``close()``.
    """

    def __init__(self, connection: sqlite3.Connection, path: str, *, is_new: bool = False) -> None:
        self._connection = connection
        self.path = path
        self._is_new = is_new

    @classmethod
    def open(cls, path: Path | str, *, create: bool = True) -> Store:
        """Open or make a store; ``":memory:"`` keeps it in memory.

        Raises ``InputError`` if ``path`` is no history store (or is missing and not ``create``),
        ``OutputError`` if it cannot be made.
        """
        is_new = str(path) != ":memory:" and not Path(path).exists()
        if is_new:
            if not create:
                raise InputError(
                    f"no history store at {path}", hint="make one: stockpot history import"
                )
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"cannot make {path}: {error.strerror}") from error
        try:
            connection = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        except sqlite3.Error as error:
            raise OutputError(f"cannot open {path}: {error}") from error
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"version {version}")
            if version == 0:
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
                check_tables(connection, _SCHEMA)
                connection.execute(f"PRAGMA user_version={_VERSION}")
                connection.execute("COMMIT")
                connection.execute("PRAGMA journal_mode=WAL")
            check_tables(connection, _SCHEMA)
        except sqlite3.Error as error:
            connection.close()
            raise InputError(
                f"{path} is not a history store of this version: {error}",
                hint="a CSV file is read by `stockpot history import`",
            ) from error
        return cls(connection, str(path), is_new=is_new)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        unused = self._is_new and error is not None and not self.sources()
        self.close()
        if unused:  # what was refused leaves no store behind
            Path(self.path).unlink()

    def add(
        self,
        model: str,
        task: str,
        metric: str,
        value: float,
        *,
        source: str = "own",
        run: str = "",
        data: str | None = None,
        lower_is_better: bool | None = None,
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        """Add one result. ``run`` keeps repeats (seeds) apart; the table takes their mean.

        ``data``: what the task is about, if other tasks are about the same. ``facts`` describe the
        model and join what is known of it. ``lower_is_better``: by default as the metric's name
        says. Raises ``InputError`` on an empty name, a value that is not finite, a metric whose
        direction nobody says, or one that the store has the other way round.
        """
        lower = resolve(metric, lower_is_better, f"'{model}' on '{task}'").lower
        row = (model, task, metric, source, run, value, lower, None)
        self._write([row], {model: facts or {}}, {task: data or task})

    def describe(self, facts: Mapping[str, Mapping[str, Fact]]) -> None:
        """Join facts about models to what is known of them."""
        self._write([], facts, {})

    def import_csv(
        self,
        path: Path | str,
        format: str = "auto",
        *,
        metadata: Path | str | None = None,
        base: str | None = None,
        clean: bool = True,
        reading: Reading = Reading(),
    ) -> ImportReport:
        """Import a file (or MTEB folder) of results; see :mod:`.importers` for the formats.

        Rows with values in the wrong columns are found (:func:`find_misplaced_rows`) where the
        columns are comparable: for ``ibm``, or where ``base`` names the row to compare with. They
        are set aside (stored, with the reason, but not in the table) unless ``clean`` is false.
        ``metadata``: a CSV file of facts per model. ``reading``: what the file does not say itself.
        All or nothing; twice is the same as once.
        """
        if base is not None and not clean:
            raise InputError(f"base '{base}' has no effect without cleaning")
        found = read_results(Path(path), format, reading)
        if found.unsaid:
            columns = listed(list(dict.fromkeys(found.unsaid)))
            raise InputError(
                f"{path} does not say what it measures ({columns}), so not whether more or less is "
                "better",
                hint="say it: --metric accuracy (or error, perplexity, MASE, ...), "
                "--higher-is-better or --lower-is-better",
            )
        facts: dict[str, dict[str, Fact]] = {n: dict(f) for n, f in found.table.metadata.items()}
        if metadata is not None:
            more = read_metadata(Path(metadata))
            strange = [name for name in more if name not in found.table.row]
            if len(strange) == len(more):
                raise InputError(f"{metadata} names no model of {path}, but {listed(strange)}")
            if strange:
                left = f"facts of models without results are left out: {listed(strange)}"
                found = replace(found, notes=(*found.notes, left))
            for name in found.table.models:
                facts.setdefault(name, {}).update(more.get(name, {}))
        aside = misplaced(found, facts, base) if clean else []
        self._check_units(found)
        reasons = {each.model: each.reason for each in aside}
        table, source = found.table, Path(path).name
        rows = [
            (m, *found.metrics[t], source, "", float(value), t in table.lower, reasons.get(m))
            for i, m in enumerate(table.models)
            for t, value in zip(table.tasks, table.values[i], strict=True)
            if np.isfinite(value)
        ]
        self._write(
            rows,
            {name: facts.get(name, {}) for name in table.models},
            {found.metrics[column][0]: table.group(column) for column in table.tasks},
            where=path,
        )
        return ImportReport(
            path=str(path),
            format=found.format,
            models=len(table.models),
            tasks=len(table.tasks),
            results=len(rows),
            aside=tuple(aside),
            notes=(*found.notes, *suspicious_zeros(table)),
        )

    def table(self, *, metric: str | None = None, include_aside: bool = False) -> Table:
        """All results as one table: the mean over sources and runs of each model, task and metric.

        With several metrics for a task each is a column of its own, ``task [metric]``, of one
        group. Raises ``InputError`` if there are no results.
        """
        where, values = ["1"], []
        if metric is not None:
            where.append("metric = ?")
            values.append(metric)
        if not include_aside:
            where.append("aside IS NULL")
        rows = self._connection.execute(
            "SELECT model, task, metric, CASE WHEN typeof(min(value)) = 'real' "
            "AND typeof(max(value)) = 'real' THEN avg(value) END, max(lower) FROM results "
            f"WHERE {' AND '.join(where)} GROUP BY model, task, metric",
            values,
        ).fetchall()
        if not rows:
            raise InputError(
                f"the history store {self.path} holds no results",
                hint="stockpot history import STORE FILE.csv",
            )
        for model, task, _, value, _ in rows:
            if value is None or not math.isfinite(value):
                raise InputError(f"{self.path} is damaged: '{model}' on '{task}' is {value}")
        data = dict(self._connection.execute("SELECT name, data FROM tasks ORDER BY position"))
        metrics: dict[str, set[str]] = {}
        for _, task, name, _, _ in rows:
            metrics.setdefault(task, set()).add(name)
        if strange := metrics.keys() - data.keys():
            raise InputError(f"{self.path} is damaged: it has no task '{min(strange)}'")

        def column(task: str, name: str) -> str:
            return task if len(metrics[task]) == 1 else f"{task} [{name}]"

        columns = {column(t, n): t for t in data for n in sorted(metrics.get(t, ()))}
        facts = {
            name: self._read_facts(name, text)
            for name, text in self._connection.execute("SELECT name, facts FROM models")
        }
        models = sorted({row[0] for row in rows})
        row_of = {name: i for i, name in enumerate(models)}
        column_of = {name: j for j, name in enumerate(columns)}
        matrix = np.full((len(models), len(columns)), math.nan)
        lower = set()
        for model, task, name, value, down in rows:
            matrix[row_of[model], column_of[column(task, name)]] = value
            if down:
                lower.add(column(task, name))
        return Table(
            tuple(models),
            tuple(columns),
            matrix,
            {name: facts[name] for name in models if facts.get(name)},
            {name: data[task] for name, task in columns.items() if data[task] != name},
            frozenset(lower),
        )

    def _read_facts(self, model: str, text: str) -> dict[str, Fact]:
        try:
            return fields.table(parse_json(text), "facts")
        except ValueError as error:
            raise InputError(f"{self.path} is damaged: facts of '{model}': {error}") from error

    def aside(self) -> dict[str, str]:
        """Models set aside -> why."""
        return dict(
            self._connection.execute(
                "SELECT DISTINCT model, aside FROM results WHERE aside IS NOT NULL ORDER BY model"
            )
        )

    def metrics(self) -> list[str]:
        """The metrics of all results."""
        rows = self._connection.execute("SELECT DISTINCT metric FROM results ORDER BY metric")
        return [metric for (metric,) in rows]

    def sources(self) -> list[dict[str, str | int]]:
        """Per source: results, models, tasks, set aside."""
        rows = self._connection.execute(
            "SELECT source, count(*), count(DISTINCT model), count(DISTINCT task), "
            "count(DISTINCT CASE WHEN aside IS NOT NULL THEN model END) "
            "FROM results GROUP BY source ORDER BY source"
        )
        names = ("source", "results", "models", "tasks", "models_aside")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _write(
        self,
        rows: Iterable[_Row],
        facts: Mapping[str, Mapping[str, Fact]],
        tasks: Mapping[str, str],
        where: Path | str = "",
    ) -> None:
        rows = list(rows)
        self._check_directions(rows)
        for row in rows:
            for what, name in zip(("model", "task", "metric", "source"), row[:4], strict=True):
                if not name.strip():
                    raise InputError(f"the name of the {what} is empty: {row[:3]}")
                try:
                    fields.name(name, what)
                except ValueError as error:
                    raise InputError(
                        f"{where or self.path}: a name cannot be kept: {error}"
                    ) from error
            if not math.isfinite(row[5]):
                raise InputError(f"the result of '{row[0]}' on '{row[1]}' is {row[5]}, not finite")
        now = time.time()
        run = self._connection.execute
        try:
            run("BEGIN IMMEDIATE")
            for name, more in facts.items():
                old = run("SELECT facts FROM models WHERE name = ?", (name,)).fetchone()
                joined = {**(self._read_facts(name, old[0]) if old else {}), **more}
                text = json.dumps(joined, sort_keys=True, ensure_ascii=False)
                run("INSERT OR REPLACE INTO models VALUES (?, ?)", (name, text))
            for name, data in tasks.items():
                run(
                    "INSERT OR IGNORE INTO tasks VALUES (?, ?, (SELECT count(*) FROM tasks))",
                    (name, data),
                )
            self._connection.executemany(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(*row, now) for row in rows],
            )
            run("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                run("ROLLBACK")
            raise OutputError(f"cannot write {self.path}: {error}") from error

    def _check_directions(self, rows: Iterable[_Row]) -> None:
        """Refuse a task's metric that the store has the other way round."""
        for task, metric, lower in dict.fromkeys((row[1], row[2], bool(row[6])) for row in rows):
            query = "SELECT lower FROM results WHERE task = ? AND metric = ? LIMIT 1"
            old = self._connection.execute(query, (task, metric)).fetchone()
            if old is not None and bool(old[0]) != lower:
                side = "less" if old[0] else "more"
                raise InputError(f"in {self.path} {side} of '{metric}' on '{task}' is better")

    def check_value(self, task: str, metric: str, value: float) -> None:
        """Raise ``InputError`` for a share below 0 or above 100 per cent, and for a fraction where
        the store holds per cent of this task, or the other way round.
        """
        known = find_metric(metric)
        if known is None or not known.share:
            return
        if value > 100 or (value < 0 and not known.signed):
            raise InputError(f"no {metric} is {value:g}", hint="write a fraction, or per cent")
        low, high = self._connection.execute(
            "SELECT min(abs(value)), max(abs(value)) FROM results WHERE task = ? AND metric = ?",
            (task, metric),
        ).fetchone()
        if low is not None and (0 < value <= 1 < low or high <= 1 < value):
            raise InputError(
                f"task '{task}' holds values from {low:.3g} to {high:.3g}, so not {value:g}: "
                "fractions and per cent do not mix",
                hint="write it in the unit of the others, or under another --metric",
            )

    def _check_units(self, found: Imported) -> None:
        """Refuse fractions where the store holds per cent, and the other way round."""
        table = found.table
        for j, column_name in enumerate(table.tasks):
            task, metric = found.metrics[column_name]
            old = self._connection.execute(
                "SELECT max(abs(value)), count(*) FROM results WHERE task = ? AND metric = ?",
                (task, metric),
            ).fetchone()
            column = np.abs(table.values[:, j])
            if old[1] < 5 or np.isfinite(column).sum() < 5:
                continue
            new = float(np.nanmax(column))
            if min(new, old[0]) <= 1.0 and max(new, old[0]) > 20.0:
                raise InputError(
                    f"task '{task}' holds values up to {old[0]:.3g} in the store and up to "
                    f"{new:.3g} in the file: fractions and per cent do not mix",
                    hint="scale one of them, or import it under another metric",
                )
