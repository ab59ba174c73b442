"""Which column of a table holds the texts and which the labels, where nobody says it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from stockpot.errors import TaskError
from stockpot.tasks.labels import is_number, is_whole
from stockpot.tasks.specs import TextSpec
from stockpot.tasks.tables import read_rows

_LOOKED_AT = 2000
_TEXT, _LABEL = "text", "label"
_LABELS = re.compile(
    r"(.*[_ ])?(label|labels|class|category|sentiment|target|rating|stars|score|y|topic|intent|"
    r"genre|spam|toxic|polarity|grade)",
    re.IGNORECASE,
)
_ROLES = ("domain", "split", "group")
_LEAST_CHARACTERS = 20.0
_MANY = 50


@dataclass(frozen=True)
class TextColumns:
    """The columns of a table, and whether the labels are numbers to be predicted."""

    text: str
    label: str
    regression: bool
    note: str | None

    def spec(self, path: str) -> TextSpec:
        """The task."""
        target: Any = {"target": "regression"} if self.regression else {}
        return TextSpec(path=path, text=self.text, label=self.label, **target)


def find_columns(path: Path, text: str | None = None, label: str | None = None) -> TextColumns:
    """The columns of texts and labels of a table: those given, or by their names or what they hold.

    Texts: the column of the longest strings, 20 characters and more on average. Labels: the one
    column that is called so (``label``, ``sentiment``, ``stars``, ...), else the one of few values.
    Labels that are numbers are classes where all are whole and few, as ``0.0`` and ``1.0`` are.
    Raises ``TaskError`` naming the columns where more than one would do, or none.
    """
    rows = [row for _, row in islice(read_rows(path), _LOOKED_AT)]
    if not rows:
        raise TaskError(f"{path}: no examples")
    names = list(rows[0])
    text = text or (_TEXT if _TEXT in names else None)
    label = label or (_LABEL if _LABEL in names else None)
    is_named = text is not None and label is not None
    values = {
        name: ["" if row.get(name) is None else str(row[name]) for row in rows] for name in names
    }
    if text is None:
        text = _longest(path, {name: own for name, own in values.items() if name != label})
    if label is None:
        left = [name for name in names if name not in (text, *_ROLES)]
        label = _labels(path, {name: values[name] for name in left})
    if label not in values:
        return TextColumns(text, label, regression=False, note=None)  # refused with its line
    distinct = {value for value in values[label] if value.strip()}
    numbers = all(is_number(value) for value in distinct)
    regression = numbers and (len(distinct) > _MANY or not all(map(is_whole, distinct)))
    kind = "numbers" if regression else f"{len(distinct)} classes"
    note = f"texts: column '{text}'; labels: column '{label}' ({kind})"
    return TextColumns(text, label, regression, note if regression or not is_named else None)


def _longest(path: Path, values: dict[str, list[str]]) -> str:
    length = {name: sum(map(len, own)) / len(own) for name, own in values.items()}
    long = sorted((n for n in length if length[n] >= _LEAST_CHARACTERS), key=lambda n: -length[n])
    if not long:
        raise _undecided(path, "texts", "text", list(values))
    if len(long) > 1 and length[long[0]] < 2 * length[long[1]]:
        raise _undecided(path, "texts", "text", long)
    return long[0]


def _labels(path: Path, values: dict[str, list[str]]) -> str:
    count = {name: len(set(own)) for name, own in values.items()}
    rows = max(map(len, values.values()), default=0)
    named = [name for name in values if _LABELS.fullmatch(name) and count[name] > 1]
    few = [name for name in values if 2 <= count[name] <= min(_MANY, max(2, rows // 4))]
    found = named if len(named) == 1 else few if not named else []
    if len(found) != 1:
        raise _undecided(path, "labels", "label", named or few or list(values))
    return found[0]


def _undecided(path: Path, what: str, key: str, names: Sequence[str]) -> TaskError:
    listed = ", ".join(f"'{name}'" for name in names)
    several = f"any of {listed} may be" if len(names) > 1 else f"of {listed} none is clearly"
    return TaskError(
        f"{path}: which column holds the {what}? {several} it",
        hint=f"say it: --set task.{key}={names[0] if names else 'COLUMN'}",
    )
