"""The value of a parameter for one tensor: conditions, gradients, and who is asked first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stockpot.errors import MethodError
from stockpot.merging.parameters import Flag, Integer, Parameter

_YES = frozenset(("true", "t", "yes", "y", "on", "1"))
_NO = frozenset(("false", "f", "no", "n", "off", "0"))

Setting = Any
"""A scalar, a list of scalars (a gradient), a condition, or a list of conditions."""


def converted(kind: Parameter, value: Any) -> Any:
    """A scalar of a file as the type that a parameter has, as mergekit converts it.

    YAML reads ``1e-5`` as a text; ``yes``, 1 and 0 are flags. Raises ``MethodError``.
    """
    if isinstance(kind, Flag):
        word = str(value).lower()
        if isinstance(value, bool | str | int | float) and word in _YES | _NO | {"1.0", "0.0"}:
            return kind.check(word in _YES | {"1.0"})
        return kind.check(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return kind.check(value)
    if isinstance(kind, Integer):
        return kind.check(int(number) if number.is_integer() else number)
    return kind.check(number)


def is_condition(setting: Setting) -> bool:
    """Whether a setting is a condition: a value, and for which tensors."""
    return isinstance(setting, Mapping)


def holds_condition(setting: Setting) -> bool:
    """Whether a setting is a condition or a list with one."""
    return is_condition(setting) or (
        isinstance(setting, list) and any(is_condition(item) for item in setting)
    )


def scalars(setting: Setting) -> Iterator[Any]:
    """Every scalar of a setting."""
    if is_condition(setting):
        yield from scalars(setting.get("value"))
    elif isinstance(setting, list):
        for item in setting:
            yield from scalars(item)
    else:
        yield setting


def evaluated(kind: Parameter, setting: Setting, name: str, t: float) -> Any:
    """The value of a setting for the tensor ``name`` at ``t`` of its slice (0: first layer, 1:
    last). None where no condition holds.

    Numbers are interpolated; of flags the one below ``t`` is taken.
    """
    if is_condition(setting):
        setting = [setting]
    if not isinstance(setting, list):
        return converted(kind, setting)
    if any(is_condition(item) for item in setting):
        for item in setting:
            pattern = item.get("filter")
            if pattern is None or pattern == "*" or pattern in name:
                return evaluated(kind, item["value"], name, t)
        return None
    if not setting:
        return None
    values = [converted(kind, item) for item in setting]
    if isinstance(kind, Flag):
        return values[int(t * (len(values) - 1))]
    place = t * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    share = place - low
    return converted(kind, (1 - share) * values[low] + share * values[high])


def resolved(
    kind: Parameter, sources: Iterable[Mapping[str, Setting] | None], name: str, t: float
) -> Any:
    """The value that the first of ``sources`` has for a parameter, else its default.

    Raises ``MethodError`` where it has none.
    """
    for source in sources:
        if source is not None and kind.name in source:
            value = evaluated(kind, source[kind.name], name, t)
            if value is not None:
                return value
    if kind.default is None:
        raise MethodError(
            f"parameter '{kind.name}' has no value for '{name}', and mergekit no default",
            hint=f"give {kind.range}",
        )
    return kind.default
