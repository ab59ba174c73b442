"""Labels as they stand in tables: names of classes, or numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from stockpot.errors import TaskError
from stockpot.tasks.task import Array, quoted

_WHOLE = re.compile(r"-?\d+(\.0*)?")
_NUMBERS = "set target: regression, or target: sign"


def class_labels(
    raw: Sequence[Any],
    where: Sequence[str],
    classes: Sequence[str] | None = None,
    *,
    hint: str = _NUMBERS,
) -> tuple[Array, tuple[str, ...]]:
    """Labels (int64) and class names; ``classes`` in this order, or those of ``raw``, sorted.

    ``where`` names each row in messages. A whole number is one class however it is written: ``1.0``
    is ``1``, unless ``classes`` names it so. Raises ``TaskError`` for a number that is no whole
    number (``hint`` says what to do about it), and for a label that is not one of ``classes``.
    """
    names: list[str] = []
    for value, place in zip(raw, where, strict=True):
        if is_whole(value) and "." in str(value) and str(value) not in (classes or ()):
            value = int(float(value))  # pandas turns 1 into 1.0
        if isinstance(value, list | dict | float):
            raise TaskError(
                f"{place}: label {value!r} is not the name of a class", hint=f"for numbers {hint}"
            )
        names.append(str(value).strip())
        if classes is None and names[-1].lower() == "nan":
            raise TaskError(
                f"{place}: label '{names[-1]}' stands for a missing value",
                hint="leave such rows out, or list it under 'classes' if it is a class",
            )
    known = list(classes or class_order(names))
    index = {name: i for i, name in enumerate(known)}
    for name, place in zip(names, where, strict=True):
        if name not in index:
            raise TaskError(f"{place}: label '{name}' is not one of the classes {quoted(known)}")
        if classes is None and "." in name and is_number(name):
            raise TaskError(
                f"{place}: label '{name}' is a number, not the name of a class", hint=hint
            )
    return np.array([index[name] for name in names], dtype=np.int64), tuple(known)


def class_order(names: Sequence[str]) -> list[str]:
    """The distinct names, sorted; by number where all are whole numbers."""
    distinct = set(names)
    if all(name.lstrip("-").isdecimal() for name in distinct):
        return sorted(distinct, key=int)
    return sorted(distinct)


def number_labels(raw: Sequence[Any], where: Sequence[str]) -> Array:
    """Labels as float64; ``TaskError`` for one that is not a finite number."""
    return np.array(
        [_number(value, place) for value, place in zip(raw, where, strict=True)], dtype=np.float64
    )


def is_whole(value: Any) -> bool:
    """Whether a label is a whole number, with or without a point: ``-1``, ``3.0``."""
    return bool(_WHOLE.fullmatch(str(value).strip()))


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TaskError(f"{where}: label {value!r} is not a number") from None
    if not math.isfinite(number):
        raise TaskError(f"{where}: label {value!r} is not finite")
    return number
