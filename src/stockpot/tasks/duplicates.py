"""The same input on two sides of what a result rests on: domains, classes, fixed splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

from stockpot.errors import TaskError
from stockpot.tasks.parts import PARTS
from stockpot.tasks.task import Array, Inputs

Side = tuple[int | None, str, str]
"""Where a row stands: its fixed split, domain and class, ``""`` for a regression."""
Rule = Literal["keep", "refuse"]


def count_shared(
    contents: Iterable[Hashable],
    sides: Iterable[Side],
    where: str,
    name: Callable[[int], str],
    rule: Rule = "refuse",
) -> int:
    """How many rows have the content of an earlier row that stands on another side.

    ``name``: what messages call a row; ``where``: file or folder. Raises ``TaskError`` with the
    count and the first two rows where there is one, unless the ``rule`` is to keep them.
    """
    first: dict[Hashable, tuple[int, Side]] = {}
    shared = 0
    problem = ""
    for row, (content, side) in enumerate(zip(contents, sides, strict=True)):
        one, other = first.setdefault(content, (row, side))
        if side != other:
            shared += 1
            problem = problem or f"{name(one)} ({_words(other)}) and {name(row)} ({_words(side)})"
    if shared and rule == "refuse":
        noun = "row is" if shared == 1 else "rows are"
        raise TaskError(
            f"{where}: {shared} {noun} the same as an earlier one of another domain, class or "
            f"split: first {problem}",
            hint="remove them, or accept them with duplicates: keep",
        )
    return shared


def contents_of(inputs: Inputs) -> Iterable[Hashable]:
    """What rows are compared by: texts themselves, hashes of arrays."""
    if isinstance(inputs, list):
        return inputs
    return (hashlib.sha256(np.ascontiguousarray(row).data).digest() for row in inputs)


def sides_of(
    splits: Array | None,
    domains: Sequence[str],
    domain_ids: Array,
    classes: Sequence[str],
    labels: Array,
) -> Iterator[Side]:
    """Where each row of a task stands; arguments as of ``build_task``."""
    parts = [None] * len(labels) if splits is None else splits.tolist()
    for part, domain, label in zip(parts, domain_ids.tolist(), labels.tolist(), strict=True):
        yield part, domains[domain], classes[label] if classes else ""


def _words(side: Side) -> str:
    part, *names = side
    return "/".join(name for name in ([] if part is None else [PARTS[part]]) + names if name)
