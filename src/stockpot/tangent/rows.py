"""Rows by their content: what a shard is, whatever lies beside it and in whatever order."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stockpot.errors import InputError
from stockpot.files import digest
from stockpot.tasks import Task, take_rows
from stockpot.tasks.duplicates import contents_of
from stockpot.tasks.splits import unit
from stockpot.tasks.task import Inputs
from stockpot.training.rows import open_task


@dataclass(frozen=True, eq=False)
class Portion:
    """Rows that are kept together on disk: positions in the task (int64), ordered by content.

    ``content``: hash of the inputs and the names of their classes, in that order.
    """

    rows: np.ndarray
    content: str


def row_hashes(task: Task) -> np.ndarray:
    """SHA-256 (hex) of each input of ``task``, str (N,); equal inputs have one hash."""
    return np.array(content_hashes(task.inputs))


def content_hashes(inputs: Inputs) -> list[str]:
    """SHA-256 (hex) of each input."""
    return [
        content.hex()
        if isinstance(content, bytes)
        else hashlib.sha256(str(content).encode()).hexdigest()
        for content in contents_of(inputs)
    ]


def make_portion(task: Task, hashes: np.ndarray, *parts: np.ndarray) -> Portion:
    """The rows of ``parts``, one part after the other, each in the order of its contents."""
    ordered, contents = [], []
    for rows in parts:
        names = [(hashes[row], task.classes[task.labels[row]], row) for row in rows.tolist()]
        names.sort()
        ordered += [row for *_, row in names]
        contents.append([[content, label] for content, label, _ in names])
    return Portion(np.array(ordered, dtype=np.int64), digest(contents))


def units(hashes: np.ndarray, rows: np.ndarray, seed: int, *names: str) -> np.ndarray:
    """A number in [0, 1) for each of ``rows``: by seed, names and the row's content alone."""
    return np.array([unit(seed, *names, str(content)) for content in hashes[rows]])


def align_classes(task: Task, columns: Sequence[str]) -> Task:
    """``task`` with labels as positions in ``columns``, which must have all its classes.

    Raises ``InputError`` naming a class that has no column.
    """
    if tuple(columns) == task.classes:
        return task
    unknown = [name for name in task.classes if name not in columns]
    if unknown:
        raise InputError(
            f"task '{task.name}' has the class '{unknown[0]}', the head's columns are "
            f"{', '.join(columns)}",
            hint="all sites need one list of classes: head: {classes: [...]}",
        )
    position = np.array([list(columns).index(name) for name in task.classes], dtype=np.int64)
    return replace(task, classes=tuple(columns), labels=position[task.labels])


def open_part(part: str, root: str, cache: str) -> Task:
    """The rows that a job's ``part`` names, as a task of their own.

    ``part`` is JSON: the task's ``data`` argument, ``rows``, ``classes`` and ``content``.
    """
    value = json.loads(part)
    whole = align_classes(open_task(value["data"], root, cache), value["classes"])
    rows = take_rows(whole, np.asarray(value["rows"], dtype=np.int64))
    return replace(rows, fingerprint=value["content"])


def check_labels(labels: np.ndarray, owner: str) -> np.ndarray:
    """``labels`` as int64; ``InputError`` naming ``owner`` where they are no whole numbers."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"component '{owner}': labels have the type {labels.dtype}, expected whole numbers, "
            "positions in the classes",
        )
    return labels.astype(np.int64)


def shared_rows(
    groups: Mapping[str, np.ndarray], hashes: np.ndarray
) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Contents that stand under several names: the names, sorted, and the rows' hashes."""
    owners: dict[str, set[str]] = defaultdict(set)
    for name, rows in groups.items():
        for content in hashes[rows]:
            owners[str(content)].add(name)
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for content, names in owners.items():
        if len(names) > 1:
            found[tuple(sorted(names))].append(content)
    return {names: tuple(sorted(contents)) for names, contents in sorted(found.items())}
