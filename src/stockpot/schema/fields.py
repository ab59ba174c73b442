"""What a record, a manifest or a review may hold: one rule a kind of field, for every door.

Values come from files that anybody may have written. A rule returns its value, or raises
``ValueError`` saying what stands where and what was expected.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from stockpot.reading import HIDDEN, check_depth, visible

NAME = 1000
"""Characters of a name: of a model, a parent, a metric, a package, an author."""
TEXT = 20_000
"""Characters of a note or a reason."""
RECIPE = 4_000_000
"""Characters of a recipe as JSON."""
MOST = 10_000
"""Entries of a list or table: parents, metrics, versions."""
BIGGEST = 2**62
"""Bytes or elements; what an index can keep."""

_HEX = re.compile(r"[0-9a-f]*")
_OVERFLOW = 2**1023


def text(value: Any, what: str, most: int = NAME, least: int = 0) -> str:
    """A text of ``least`` to ``most`` characters, none of which hides or moves others."""
    if not isinstance(value, str):
        raise ValueError(f"'{what}' is {type(value).__name__}, expected str")
    if not least <= len(value) <= most:
        raise ValueError(f"'{what}' has {len(value)} characters, expected {least} to {most}")
    hidden = None if value.isprintable() else HIDDEN.search(value)
    if hidden:
        raise ValueError(f"'{what}' holds the control character {visible(hidden.group())}")
    return value


def name(value: Any, what: str) -> str:
    """A text of one line that is not empty."""
    text(value, what, least=1)
    if "\n" in value:
        raise ValueError(f"'{what}' has more than one line")
    return str(value)


def hexadecimal(value: Any, what: str, digits: int = 64) -> str:
    """A hash in lower-case hexadecimal digits."""
    if not isinstance(value, str) or len(value) != digits or not _HEX.fullmatch(value):
        text(value, what)
        raise ValueError(
            f"'{what}' is {visible(value, 80)!r}, expected {digits} hexadecimal digits"
        )
    return str(value)


def number(value: Any, what: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"'{what}' is {type(value).__name__}, expected a number")
    if abs(value) >= _OVERFLOW or value != value or not low <= value <= high:
        raise ValueError(f"'{what}' is {value!r:.40}, expected a finite number{_range(low, high)}")
    return value


def count(value: Any, what: str) -> int:
    """A whole number from 0 on."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"'{what}' is {type(value).__name__}, expected a whole number")
    if not 0 <= value <= BIGGEST:
        raise ValueError(f"'{what}' is not between 0 and {BIGGEST}")
    return value


def table(value: Any, what: str) -> dict[str, Any]:
    """A table with names for keys and not more than ``MOST`` entries."""
    if not isinstance(value, Mapping):
        raise ValueError(f"'{what}' is {type(value).__name__}, expected dict")
    if len(value) > MOST:
        raise ValueError(f"'{what}' has {len(value)} entries, the limit is {MOST}")
    for key in value:
        name(key, f"{what}: a name")
    return dict(value)


def items(value: Any, what: str, most: int = MOST) -> list[Any]:
    """A list of not more than ``most`` entries."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"'{what}' is {type(value).__name__}, expected list")
    if len(value) > most:
        raise ValueError(f"'{what}' has {len(value)} entries, the limit is {most}")
    return list(value)


def plain(value: Any, what: str, most: int = RECIPE) -> Any:
    """A JSON value without NaN, of bounded depth and size."""
    try:
        check_depth(value)
        written = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"'{what}' is no JSON value: {error}") from None
    if len(written) > most:
        raise ValueError(f"'{what}' has {len(written)} characters as JSON, the limit is {most}")
    return value


def metrics(value: Any) -> dict[str, float]:
    """Named finite numbers."""
    return {key: number(item, f"metrics.{key}") for key, item in table(value, "metrics").items()}


def versions(value: Any) -> dict[str, str]:
    """Versions of packages by name."""
    return {key: text(item, f"versions.{key}") for key, item in table(value, "versions").items()}


def kind(value: Any) -> str:
    """One lower-case word."""
    text(value, "kind", 40)
    if not re.fullmatch(r"[a-z][a-z0-9-]*", value):
        raise ValueError(f"kind is {value!r}, expected one lower-case word")
    return str(value)


def optional(rule: Any, value: Any, what: str) -> Any:
    """None, or what ``rule`` says."""
    return None if value is None else rule(value, what)


def _range(low: float, high: float) -> str:
    return "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
