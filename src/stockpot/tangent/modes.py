"""Which classes a composed model may answer with: three settings of incremental learning.

*Data-incremental*: every component has seen all classes. *Class-incremental*: it answers with any
class that some component has seen. *Task-incremental*: it is told which component's task an example
belongs to and answers with that task's classes. (van de Ven & Tolias 2019 name the scenarios.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stockpot.errors import InputError


def class_numbers(names: Sequence[str], head: Sequence[str]) -> np.ndarray:
    """Columns (int64, ascending) of the classes ``names`` in a head; ``InputError`` if unknown."""
    unknown = [name for name in names if name not in head]
    if unknown:
        raise InputError(f"the head has no class '{unknown[0]}'")
    return np.sort(np.array([list(head).index(name) for name in names], dtype=np.int64))


def restrict(outputs: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """``outputs`` (N, C) with the columns outside ``allowed`` at minus infinity.

    ``allowed``: columns (int64), or bool (N, C) for each row its own.
    """
    if allowed.dtype == np.bool_:
        keep = allowed
    else:
        keep = np.zeros(outputs.shape[1], dtype=bool)
        keep[allowed] = True
    if not np.broadcast_to(keep, outputs.shape).any(axis=1).all():
        raise InputError("a row may answer with no class at all")
    return np.where(keep, outputs, -np.inf)


def own_task(labels: np.ndarray, tasks: Sequence[Sequence[int]], columns: int) -> np.ndarray:
    """For task-incremental answers: bool (N, columns), the classes of each row's own task.

    ``tasks``: the columns of each task, disjoint. Raises ``InputError`` for a label of no task, or
    a class in two tasks.
    """
    owner = np.full(columns, -1)
    for index, task in enumerate(tasks):
        for column in task:
            if owner[column] not in (-1, index):
                raise InputError(
                    f"class {column} belongs to two tasks; task-incremental needs disjoint ones"
                )
            owner[column] = index
    if (owner[labels] < 0).any():
        raise InputError(f"label {labels[owner[labels] < 0][0]} belongs to no task")
    allowed: np.ndarray = owner[labels][:, None] == owner[None, :]
    return allowed


def accuracy_among(outputs: np.ndarray, labels: np.ndarray, allowed: np.ndarray) -> float:
    """Share of rows whose largest output among the allowed classes is the label."""
    if not len(labels):
        raise InputError("no example to evaluate")
    return float((restrict(outputs, allowed).argmax(axis=1) == labels).mean())
