"""Who is trained on what: pure functions of labels, setting and seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stockpot.continual.recipe import Data, Setting
from stockpot.errors import InputError
from stockpot.tasks import Task, named_generator
from stockpot.tasks.parts import TEST, TRAIN
from stockpot.tasks.task import check_domains, quoted


@dataclass(frozen=True, eq=False)
class ContinualTask:
    """One task: its name, its training rows (int64, ascending) and the numbers of its classes."""

    name: str
    rows: np.ndarray
    classes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Stream:
    """The tasks of one trial in their order, and the rows all of them are tested on."""

    parts: tuple[ContinualTask, ...]
    test: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """All training rows."""
        return np.sort(np.concatenate([part.rows for part in self.parts]))


def deal(task: Task, data: Data, setting: Setting, seed: int) -> Stream:
    """The tasks of a trial. Training and test rows depend on ``seed`` alone, not on the setting.

    Classes are shuffled before they are dealt; a last task may have fewer classes than the others.
    Raises ``InputError`` where a task or the test would be empty.
    """
    train, test = divide(task, data, seed)
    if setting.mode == "data":
        count = setting.parts or 1
        if count > len(train):
            raise InputError(f"{count} parts of {len(train)} examples: some would be empty")
        order = named_generator(seed, "parts").permutation(train)
        dealt = [np.sort(rows) for rows in np.array_split(order, count)]
        return Stream(
            tuple(
                ContinualTask(f"part-{i + 1}", rows, tuple(np.unique(task.labels[rows]).tolist()))
                for i, rows in enumerate(dealt)
            ),
            test,
        )
    order = named_generator(seed, "class order").permutation(len(task.classes))
    size = setting.classes or 1
    if max(size, setting.parts or 0) >= len(order) + bool(setting.parts):
        raise InputError(
            f"setting {setting.name}: the data has {len(order)} classes, too few for two tasks "
            "or more with one class or more",
            hint="give fewer classes a task, or fewer parts",
        )
    groups = (
        np.array_split(order, setting.parts)
        if setting.parts is not None
        else [order[start : start + size] for start in range(0, len(order), size)]
    )
    parts = []
    for index, group in enumerate(groups):
        classes = tuple(sorted(group.tolist()))
        rows = train[np.isin(task.labels[train], classes)]
        parts.append(ContinualTask(f"task-{index + 1}", rows, classes))
    return Stream(tuple(parts), test)


def divide(task: Task, data: Data, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows of a trial (int64, ascending), drawn class by class.

    Fixed splits are kept: training rows train, test rows (of the test domains, where there are
    some) test, validation rows do neither. Without fixed test rows they are drawn.

    Raises ``InputError`` for numbers as labels, groups, unknown test domains, or a class without
    examples to train or to test on.
    """
    if task.kind != "classification":
        raise InputError(f"task '{task.name}' has numbers for labels, tasks need classes")
    check_domains(task.name, data.test_domains, task.domains)
    usable, tested = _fixed(task, data)
    if tested is None and task.groups is not None:
        raise InputError(
            f"task '{task.name}': test rows drawn by class would divide its groups",
            hint="fix the splits, give test_domains, or do not name the groups",
        )
    train: list[np.ndarray] = []
    test: list[np.ndarray] = []
    for number, name in enumerate(task.classes):
        own = np.flatnonzero(task.labels == number)
        order = named_generator(seed, "examples", name).permutation(own)
        if tested is not None:
            inside, outside = order[usable[order]], order[tested[order]][: data.test_per_class]
        else:
            order = order[usable[order]]
            size = data.test_per_class or max(1, int(len(order) * data.test_fraction))
            inside, outside = order[size:], order[:size]
        inside = inside[: data.train_per_class]
        for rows, what in ((inside, "train"), (outside, "test")):
            if not len(rows):
                raise InputError(
                    f"task '{task.name}': class {quoted([name])} has no examples to {what} on",
                    hint="change test_domains or test_per_class",
                )
        train.append(inside)
        test.append(outside)
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def _fixed(task: Task, data: Data) -> tuple[np.ndarray, np.ndarray | None]:
    """Masks of the rows that may be trained on, and of those that test (None: to be drawn)."""
    usable = np.ones(len(task), dtype=np.bool_)
    fixed = np.zeros(len(task), dtype=np.bool_)
    if task.splits is not None:
        usable, fixed = task.splits == TRAIN, task.splits == TEST
    if not data.test_domains:
        return usable, fixed if fixed.any() else None
    tested = np.isin(task.domain_ids, [task.domains.index(name) for name in data.test_domains])
    return usable & ~tested, tested & fixed if np.any(tested & fixed) else tested
