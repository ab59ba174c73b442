"""Splits into training, validation and held-out examples that depend on the split seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stockpot.errors import TaskError
from stockpot.tasks.task import Array, Task, check_domains, quoted


@dataclass(frozen=True, eq=False)
class Split:
    """Positions in the task (int64, ascending) by domain.

    ``train`` and ``validation`` share the training domains; ``test`` has the held-out ones.
    """

    train: dict[str, Array]
    validation: dict[str, Array]
    test: dict[str, Array]


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
) -> Split:
    """Divide ``task`` into training and validation (training domains) and test (held out).

    Each domain is shuffled by a generator seeded with (``seed``, its name); the first
    ``validation_fraction`` (rounded down, at least one) of the order validates and the rest trains,
    as in DomainBed (``domainbed/lib/misc.py``, ``split_dataset``; not stratified by class). So
    adding, removing or reordering other domains changes nothing, and neither do a run's own seed
    and hyper-parameters. All examples of a held-out domain are test examples.
    ``limit_per_domain`` keeps the first so many of that order, in held-out domains too.

    Raises ``TaskError`` for an unknown domain, a fraction outside (0, 1), a domain too small to be
    divided, or nothing left to train on.
    """
    held_out = list(held_out)
    check_domains(task.name, held_out, task.domains)
    if not 0 < validation_fraction < 1:
        raise TaskError(f"validation_fraction must lie between 0 and 1, got {validation_fraction}")
    if limit_per_domain is not None and limit_per_domain < 2:
        raise TaskError(f"limit_per_domain must be 2 or more, got {limit_per_domain}")
    if set(held_out) == set(task.domains):
        raise TaskError(
            f"task '{task.name}': with {quoted(held_out)} held out, no domain is left to train on"
        )
    train: dict[str, Array] = {}
    validation: dict[str, Array] = {}
    test: dict[str, Array] = {}
    for domain in task.domains:
        order = named_generator(seed, domain).permutation(task.rows(domain))[:limit_per_domain]
        if domain in held_out:
            test[domain] = np.sort(order)
            continue
        if len(order) < 2:
            raise TaskError(
                f"task '{task.name}': domain '{domain}' has {len(order)} example; "
                "two are needed, one to train on and one to validate on"
            )
        size = max(1, int(len(order) * validation_fraction))
        validation[domain] = np.sort(order[:size])
        train[domain] = np.sort(order[size:])
    return Split(train=train, validation=validation, test=test)
