"""Long tables of results: one row a result, with columns for model, task, value, metric, seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stockpot.errors import InputError
from stockpot.ranking.history.metrics import resolve
from stockpot.ranking.history.sheet import (
    FACTS,
    MISSING,
    MODEL_COLUMNS,
    Grid,
    ResultColumns,
    ResultFile,
    column_numbers,
    directions,
    file_metric,
    note_fact,
)
from stockpot.ranking.history.table import Fact

_LONG = {
    "model": (*MODEL_COLUMNS, "backbone", "checkpoint"),
    "task": ("task", "dataset", "data", "benchmark", "task_name"),
    "value": ("value", "score", "result"),
    "metric": ("metric", "measure", "metric_name"),
    "run": ("seed", "run", "fold", "repeat", "trial"),
}
_REQUIRED = {"model", "task", "value"}


def roles_of(heading: Sequence[str]) -> dict[str, int]:
    """Which column of a long table is what."""
    names = [cell.strip().lower() for cell in heading]
    return {
        role: names.index(found[0])
        for role, known in _LONG.items()
        if (found := [name for name in known if name in names])
    }


def is_long(heading: Sequence[str]) -> bool:
    """Whether a heading is that of a long table."""
    return roles_of(heading).keys() >= _REQUIRED


def read_long(rows: Grid, file: ResultFile) -> ResultColumns:
    """One row a result."""
    path, heading = file.path, [cell.strip() for cell in rows[0]]
    roles = roles_of(heading)
    for role, names in _LONG.items():
        if role in _REQUIRED - roles.keys():
            raise InputError(f"{path} has no column for the {role}: {' or '.join(names)}")
    if "metric" in roles and file.reading.metric is not None:
        raise InputError(f"{path} has a column of metrics: leave out --metric")
    facts = []
    for index, name in enumerate(heading):
        if index in roles.values() or not name or name in file.reading.ignore:
            continue
        if name not in file.reading.facts and name.lower() not in FACTS:
            raise InputError(
                f"{path}: column '{name}' is neither model, task, value, metric, seed nor a fact",
                hint=f"--fact '{name}' or --ignore '{name}'",
            )
        facts.append(index)
    metadata: dict[str, dict[str, Fact]] = {}
    cells: dict[tuple[str, str], dict[str, list[tuple[str, int]]]] = {}
    seen: dict[tuple[str, ...], int] = {}
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(heading):
            raise InputError(f"{path}, line {line}: {len(row)} cells under {len(heading)} headings")
        said = {role: row[index].strip() for role, index in roles.items()}
        for role in ("model", "task"):
            if not said[role]:
                raise InputError(f"{path}, line {line}: the name of the {role} is empty")
        metric = said.get("metric") or file.reading.metric or file_metric(file, said["task"]).name
        identity = (said["model"], said["task"], metric, said.get("run", ""))
        if "run" in roles and identity in seen:
            raise InputError(
                f"{path}, line {line}: {' '.join(identity)} stands on line {seen[identity]} as well"
            )
        seen[identity] = line
        own = metadata.setdefault(said["model"], {})
        for index in facts:
            if row[index].strip().lower() not in MISSING:
                note_fact(own, heading[index], row[index])
        column = cells.setdefault((said["task"], metric), {})
        column.setdefault(said["model"], []).append((said["value"], line))
    many = Counter(task for task, _ in cells)
    pairs = {f"{t} [{m}]" if many[t] > 1 else t: (t, m) for t, m in cells}
    metrics = {
        name: resolve(metric, file.reading.lower_is_better, f"{path}, task '{task}'")
        if task not in file.unsaid
        else file_metric(file, task)
        for name, (task, metric) in pairs.items()
    }
    file.notes.append(directions(metrics.values()))
    numbers = {
        name: column_numbers(name, cells[pair], metrics[name], file) for name, pair in pairs.items()
    }
    groups = {name: task.split("@")[0] for name, (task, _) in pairs.items()}
    groups = {name: group for name, group in groups.items() if name != group}
    return ResultColumns(numbers, pairs, metrics, metadata, groups)
