"""Fixed splits: which rows of a task its owner set apart for training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stockpot.errors import TaskError

if TYPE_CHECKING:
    from stockpot.tasks.task import Task

TRAIN, VALIDATION, TEST = range(3)
PARTS = ("train", "validation", "test")

_SPELLINGS = {
    "train": TRAIN,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "val": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
}


def is_part(name: str) -> bool:
    """Whether ``name`` is one of the spellings of a split: train, valid, val, dev, test, ..."""
    return name.strip().lower() in _SPELLINGS


def part_of(value: Any, where: str, hint: str | None = None) -> int:
    """``TRAIN``, ``VALIDATION`` or ``TEST``; ``TaskError`` starting with ``where`` otherwise."""
    name = str(value).strip().lower()
    if name not in _SPELLINGS:
        raise TaskError(
            f"{where}: '{value}' is not a split; use train, validation (or valid, val, dev) or "
            "test",
            hint=hint,
        )
    return _SPELLINGS[name]


def check_parts(task: Task, where: str, *, allow_missing_classes: bool) -> None:
    """``TaskError`` where a task's fixed splits cannot be used.

    There must be rows to train on. Each part must have every class, unless
    ``allow_missing_classes``; a group must not have rows in two parts.
    """
    for name, values in (("splits", task.splits), ("groups", task.groups)):
        if values is not None and np.shape(values) != (len(task),):
            raise TaskError(f"{where}: '{name}' has shape {np.shape(values)}, not ({len(task)},)")
    if task.splits is None:
        return
    if not np.all(np.isin(task.splits, range(len(PARTS)))):
        raise TaskError(f"{where}: fixed splits are 0 (train), 1 (validation) and 2 (test)")
    if not np.any(task.splits == TRAIN):
        raise TaskError(f"{where}: the fixed splits have no rows to train on")
    for number, part in enumerate(PARTS):
        own = task.labels[task.splits == number]
        if task.kind != "classification" or allow_missing_classes or not len(own):
            continue
        counts = np.bincount(own, minlength=len(task.classes))
        missing = [name for name, count in zip(task.classes, counts, strict=True) if not count]
        if missing:
            raise TaskError(
                f"{where}: the {part} rows have no example of class '{missing[0]}'",
                hint="add some, or set allow_missing_classes: true",
            )
    if task.groups is not None:
        _refuse_divided_groups(task.groups, task.splits, where)


def part_counts(splits: np.ndarray) -> dict[str, int]:
    """Number of rows of each part."""
    counts = np.bincount(splits, minlength=len(PARTS))
    return {part: int(count) for part, count in zip(PARTS, counts, strict=True)}


def _refuse_divided_groups(groups: np.ndarray, splits: np.ndarray, where: str) -> None:
    first: dict[str, int] = {}
    for group, part in zip(groups.tolist(), splits.tolist(), strict=True):
        if first.setdefault(group, part) != part:
            raise TaskError(
                f"{where}: group '{group}' has rows in {PARTS[first[group]]} and in {PARTS[part]}",
                hint="move them to one split, or do not name the groups",
            )


def fixed_parts(parts: Sequence[int | None]) -> np.ndarray | None:
    """Parts of rows as a task keeps them, int8 (N,); None where no row has one."""
    return None if any(part is None for part in parts) else np.array(parts, dtype=np.int8)


def group_names(groups: Sequence[str | None]) -> np.ndarray | None:
    """Groups of rows as a task keeps them, str (N,); None where no row has one."""
    return None if any(group is None for group in groups) else np.array(groups)
