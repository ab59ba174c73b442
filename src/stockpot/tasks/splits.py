"""Splits into training, validation and test examples that depend on the split seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stockpot.errors import TaskError
from stockpot.tasks.parts import PARTS, TEST, TRAIN, VALIDATION
from stockpot.tasks.task import Array, Task, check_domains, quoted

Rows = dict[str, Array]
"""Positions in a task by domain."""


@dataclass(frozen=True, eq=False)
class Split:
    """Positions in the task (int64, ascending) by domain.

    ``train`` and ``validation`` have the training domains. ``test`` has the held-out ones; where
    none is held out it has the test rows of the training domains, if there are any.
    """

    train: Rows
    validation: Rows
    test: Rows


def named_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A generator whose stream depends on the seed and the names alone, on every machine."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))


def split_task(
    task: Task,
    *,
    held_out: Sequence[str] = (),
    seed: int = 0,
    validation_fraction: float = 0.2,
    limit_per_domain: int | None = None,
    test_fraction: float | None = None,
    test_seed: int | None = None,
    unseen_groups: bool = False,
) -> Split:
    """Divide ``task`` into training and validation (training domains) and test rows.

    Each domain is shuffled by a generator seeded with (``seed``, its name); the first
    ``validation_fraction`` (rounded down, at least one) of the order validates and the rest trains,
    as in DomainBed (``domainbed/lib/misc.py``, ``split_dataset``; not stratified by class). So
    adding, removing or reordering other domains changes nothing, and neither do a run's own seed
    and hyper-parameters. All examples of a held-out domain are test examples.
    ``limit_per_domain`` keeps the first so many of that order, in held-out domains too (of every
    part, where splits are fixed).

    Fixed splits (``Task.splits``) are kept exactly. Validation rows are drawn from the training
    rows only where the training domains have none of their own; a held-out domain is judged on its
    test rows where it has some; test rows of training domains are never trained or validated on.

    Without held-out domains the test rows are the fixed ones, or with ``test_fraction`` that part
    of the training rows of each domain. They are drawn by ``test_seed`` (default: ``seed``), so
    that splits with different seeds can be judged on the same rows.

    Groups (``Task.groups``) are never divided. A group validates, or tests, where a number in
    [0, 1) made from the seed and its name lies below the fraction; a domain whose groups would all
    fall on one side gives the one nearest to the limit to the other. With ``unseen_groups`` a group
    that a training and a held-out domain share is either tested (drawn with ``test_fraction``) and
    left out of training, or trained on and left out of the test.

    Raises ``TaskError`` for an unknown domain, a fraction outside (0, 1), a domain too small to be
    divided, nothing left to train, validate or test on.
    """
    held_out = list(held_out)
    check_domains(task.name, held_out, task.domains)
    _check_fraction("validation_fraction", validation_fraction)
    if test_fraction is not None:
        _check_fraction("test_fraction", test_fraction)
    if limit_per_domain is not None and limit_per_domain < 2:
        raise TaskError(f"limit_per_domain must be 2 or more, got {limit_per_domain}")
    if set(held_out) == set(task.domains):
        raise TaskError(
            f"task '{task.name}': with {quoted(held_out)} held out, no domain is left to train on"
        )
    seen, test = set_apart(
        task,
        held_out=held_out,
        test_fraction=test_fraction,
        test_seed=seed if test_seed is None else test_seed,
        unseen_groups=unseen_groups,
    )
    seen, test = _shuffled(task, seen, seed), _shuffled(task, test, seed)
    if limit_per_domain is not None:
        seen = {name: _limited(task, rows, limit_per_domain) for name, rows in seen.items()}
        test = {name: _limited(task, rows, limit_per_domain) for name, rows in test.items()}
    train, validation = _validated(task, seen, seed, validation_fraction)
    return Split(_sorted(train), _sorted(validation), _sorted(test))


def set_apart(
    task: Task,
    *,
    held_out: Sequence[str] = (),
    test_fraction: float | None = None,
    test_seed: int = 0,
    unseen_groups: bool = False,
) -> tuple[Rows, Rows]:
    """What training and validation may see, by training domain, and what is tested, by domain.

    Both depend on the arguments alone, not on the seed that draws validation rows. Arguments and
    errors as in :func:`split_task`.
    """
    own = {name: task.rows(name) for name in task.domains}
    seen = {name: rows for name, rows in own.items() if name not in held_out}
    test = {name: rows for name, rows in own.items() if name in held_out}
    if task.splits is not None:
        fixed = {name: rows[task.splits[rows] == TEST] for name, rows in own.items()}
        seen = {name: np.setdiff1d(rows, fixed[name]) for name, rows in seen.items()}
        test = {name: fixed[name] if len(fixed[name]) else rows for name, rows in test.items()}
        if not held_out:
            test = {name: rows for name, rows in fixed.items() if len(rows)}
    if not held_out and not test and test_fraction is not None:
        test = _drawn_test(task, seen, test_fraction, test_seed)
        seen = {name: np.setdiff1d(rows, test[name]) for name, rows in seen.items()}
    if unseen_groups:
        seen, test = _unseen(task, seen, test, test_fraction or 0.2, test_seed)
    return seen, test


def draw_groups(
    task: Task, rows: Rows, fraction: float, seed: int, *names: str, leave: int = 1
) -> dict[str, npt.NDArray[np.bool_]]:
    """For each entry of ``rows`` a mask of those whose group is drawn; no group is divided.

    A group is drawn where :func:`unit` of ``seed``, ``names`` and its name is below ``fraction``.
    Of every entry one group at least is drawn and ``leave`` are not: those nearest to the limit
    change sides.

    Raises ``TaskError`` for an entry that has too few groups, or whose groups cannot be divided
    because of what other entries share with it.
    """
    assert task.groups is not None
    groups = {name: set(task.groups[own].tolist()) for name, own in rows.items() if len(own)}
    number = {group: unit(seed, *names, group) for own in groups.values() for group in own}
    drawn = {group for group, value in number.items() if value < fraction}

    def nearest(some: set[str]) -> list[str]:
        return sorted(some, key=lambda group: (number[group], group))

    for own in groups.values():
        if not own & drawn:
            drawn.add(nearest(own)[0])
    for own in groups.values():
        missing = leave - len(own - drawn)
        if missing > 0:
            drawn.difference_update(nearest(own & drawn)[1:][-missing:])
    for name, own in groups.items():
        if not own & drawn or len(own - drawn) < leave:
            raise TaskError(
                f"task '{task.name}': the groups of '{name}' ({quoted(sorted(own))}) cannot be "
                "divided: each side needs one, and groups stay whole",
                hint="name smaller groups, or fix the splits",
            )
    return {name: np.isin(task.groups[own], sorted(drawn)) for name, own in rows.items()}


def unit(seed: int, *names: str) -> float:
    """A number in [0, 1) that depends on the seed and the names alone, uniform over names."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise TaskError(f"{name} must lie between 0 and 1, got {value}")


def _drawn_test(task: Task, seen: Rows, fraction: float, seed: int) -> Rows:
    """Test rows of every training domain, out of those that may be trained on."""
    pool = _trainable(task, seen)
    if task.groups is not None:
        masks = draw_groups(task, pool, fraction, seed, "test", leave=2)
        return {name: rows[masks[name]] for name, rows in pool.items()}
    test = {}
    for name, rows in pool.items():
        size = max(1, int(len(rows) * fraction)) if len(rows) else 0
        test[name] = np.sort(named_generator(seed, "test", name).permutation(rows)[:size])
    return test


def _trainable(task: Task, seen: Rows) -> Rows:
    if task.splits is None:
        return seen
    return {name: rows[task.splits[rows] == TRAIN] for name, rows in seen.items()}


def _unseen(task: Task, seen: Rows, test: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Both without the groups that they would share."""
    groups = task.groups
    if groups is None:
        raise TaskError(
            f"task '{task.name}': unseen_groups needs the groups of the examples",
            hint="name them in the task: group: COLUMN",
        )
    names = {
        side: {group for rows in parts.values() for group in groups[rows].tolist()}
        for side, parts in (("seen", seen), ("test", test))
    }
    shared = names["seen"] & names["test"]
    tested = sorted(group for group in shared if unit(seed, "test", group) < fraction)
    trained = sorted(shared.difference(tested))
    left = {name: rows[~np.isin(groups[rows], tested)] for name, rows in seen.items()}
    kept = {name: rows[~np.isin(groups[rows], trained)] for name, rows in test.items()}
    for name, rows in kept.items():
        if not len(rows):
            raise TaskError(
                f"task '{task.name}': domain '{name}' has no rows of groups that training does "
                "not see",
                hint="raise test_fraction, or leave out unseen_groups",
            )
    return left, kept


def _shuffled(task: Task, parts: Rows, seed: int) -> Rows:
    """Each domain's rows in the order that the seed gives to the whole domain."""
    orders = {name: named_generator(seed, name).permutation(task.rows(name)) for name in parts}
    return {name: orders[name][np.isin(orders[name], rows)] for name, rows in parts.items()}


def _limited(task: Task, order: Array, limit: int) -> Array:
    """The first ``limit`` of the order; of every part of it, where splits are fixed."""
    if task.splits is None:
        return order[:limit]
    kept = [np.flatnonzero(task.splits[order] == part)[:limit] for part in range(len(PARTS))]
    return order[np.sort(np.concatenate(kept))]


def _validated(task: Task, seen: Rows, seed: int, fraction: float) -> tuple[Rows, Rows]:
    """Training and validation rows: those of the fixed splits, or drawn."""
    if task.splits is not None:
        parts = {name: task.splits[rows] for name, rows in seen.items()}
        if any(np.any(own == VALIDATION) for own in parts.values()):
            train = {name: seen[name][own == TRAIN] for name, own in parts.items()}
            validation = {name: seen[name][own == VALIDATION] for name, own in parts.items()}
            train, validation = _some(task, train, "train"), _some(task, validation, "validate")
            if strange := [name for name in validation if name not in train]:
                raise TaskError(
                    f"task '{task.name}': there are validation rows of {quoted(strange)}, and no "
                    f"rows to train on but those of {quoted(list(train))}"
                )
            return train, validation
        seen = _some(task, seen, "train")
    for name, order in seen.items():
        if len(order) < 2:
            noun = "example" if len(order) == 1 else "examples"
            raise TaskError(
                f"task '{task.name}': domain '{name}' has {len(order)} {noun} to train on; "
                "two are needed, one to train on and one to validate on"
            )
    if task.groups is not None:
        masks = draw_groups(task, seen, fraction, seed, "validation")
        train = {name: order[~masks[name]] for name, order in seen.items()}
        return train, {name: order[masks[name]] for name, order in seen.items()}
    sizes = {name: max(1, int(len(order) * fraction)) for name, order in seen.items()}
    train = {name: order[sizes[name] :] for name, order in seen.items()}
    return train, {name: order[: sizes[name]] for name, order in seen.items()}


def _some(task: Task, parts: Rows, what: str) -> Rows:
    """Without the domains that have no such rows; one must have some."""
    kept = {name: rows for name, rows in parts.items() if len(rows)}
    if not kept:
        raise TaskError(
            f"task '{task.name}': the fixed splits leave no rows to {what} on in "
            f"{quoted(list(parts))}"
        )
    return kept


def _sorted(parts: Rows) -> Rows:
    return {name: np.sort(rows) for name, rows in parts.items()}
