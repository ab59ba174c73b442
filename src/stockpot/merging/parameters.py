"""Parameters of merge methods, declared as data.

One declaration serves Python, YAML, the command line, the reference page and the tests: each kind
checks values (``check``) and can give examples that must be accepted (``valid``) and refused
(``invalid``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stockpot.errors import MethodError

Closed = Literal["both", "left", "right", "neither"]


@dataclass(frozen=True)
class Real:
    """A finite number in an interval. ``closed`` says which ends belong to it."""

    name: str
    default: float | None
    low: float = -math.inf
    high: float = math.inf
    closed: Closed = "both"
    help: str = ""

    @property
    def range(self) -> str:
        left = "[" if self.closed in ("both", "left") and math.isfinite(self.low) else "("
        right = "]" if self.closed in ("both", "right") and math.isfinite(self.high) else ")"
        return f"a number in {left}{self.low:g}, {self.high:g}{right}"

    def check(self, value: Any) -> float:
        if isinstance(value, bool) or not _is_number(value) or not math.isfinite(value):
            raise _wrong(self, value)
        number = float(value)
        above = number > self.low or (number == self.low and self.closed in ("both", "left"))
        below = number < self.high or (number == self.high and self.closed in ("both", "right"))
        if not (above and below):
            raise _wrong(self, value)
        return number

    def valid(self) -> list[Any]:
        inside = [self.default] if self.default is not None else []
        if math.isfinite(self.low) and self.closed in ("both", "left"):
            inside.append(self.low)
        if math.isfinite(self.high) and self.closed in ("both", "right"):
            inside.append(self.high)
        if math.isfinite(self.low) and math.isfinite(self.high):
            inside.append((self.low + self.high) / 2)
        return list(inside)

    def invalid(self) -> list[Any]:
        outside: list[Any] = [math.nan, math.inf, -math.inf, "much", True, [1.0, "a"]]
        if math.isfinite(self.low):
            outside += [self.low - 1.0] + (
                [self.low] if self.closed in ("right", "neither") else []
            )
        if math.isfinite(self.high):
            outside += [self.high + 1.0] + (
                [self.high] if self.closed in ("left", "neither") else []
            )
        return outside


@dataclass(frozen=True)
class Integer:
    """A whole number in ``[low, high]``."""

    name: str
    default: int | None
    low: int = 0
    high: int = 2**63 - 1
    help: str = ""

    @property
    def range(self) -> str:
        return f"a whole number in [{self.low}, {self.high}]"

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong(self, value)
        if not self.low <= value <= self.high:
            raise _wrong(self, value)
        return value

    def valid(self) -> list[Any]:
        return [value for value in (self.default, self.low) if value is not None]

    def invalid(self) -> list[Any]:
        return [self.low - 1, self.high + 1, 0.5, math.nan, "one", True]


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    name: str
    default: str | None
    options: tuple[str, ...]
    help: str = ""

    @property
    def range(self) -> str:
        return "one of " + ", ".join(self.options)

    def check(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.options:
            raise _wrong(self, value)
        return value

    def valid(self) -> list[Any]:
        return list(self.options)

    def invalid(self) -> list[Any]:
        return ["no such option", "", 1, True]


@dataclass(frozen=True)
class Flag:
    """True or false."""

    name: str
    default: bool | None
    help: str = ""

    @property
    def range(self) -> str:
        return "true or false"

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise _wrong(self, value)
        return value

    def valid(self) -> list[Any]:
        return [True, False]

    def invalid(self) -> list[Any]:
        return [0, 1, "yes", 0.5]


@dataclass(frozen=True)
class PerModel:
    """One number for each model; a single number stands for all of them."""

    each: Real
    help: str = field(default="")

    @property
    def name(self) -> str:
        return self.each.name

    @property
    def default(self) -> float | None:
        return self.each.default

    @property
    def range(self) -> str:
        return f"{self.each.range}, or a list with one for each model"

    def check(self, value: Any, models: int | None = None) -> float | list[float]:
        """Checked value; with ``models`` always a list of that length."""
        if isinstance(value, Sequence) and not isinstance(value, str):
            if not value or (models is not None and len(value) != models):
                raise MethodError(
                    f"parameter '{self.name}': {len(value)} values for {models or 'no'} models",
                    hint="give one value for each model, or a single number for all",
                )
            return [self.each.check(item) for item in value]
        single = self.each.check(value)
        return single if models is None else [single] * models

    def valid(self) -> list[Any]:
        return self.each.valid()

    def invalid(self) -> list[Any]:
        return [*self.each.invalid(), [], [math.nan]]


Parameter = Real | Integer | Choice | Flag | PerModel


def resolve(
    parameters: Sequence[Parameter], values: dict[str, Any], *, method: str, models: int
) -> dict[str, Any]:
    """Check ``values`` against the declarations and fill in the defaults.

    Per-model parameters come back as lists of length ``models``. Raises ``MethodError`` for an
    unknown name, a missing value without default, or a value outside its range.
    """
    declared = {parameter.name: parameter for parameter in parameters}
    unknown = sorted(set(values) - set(declared))
    if unknown:
        known = ", ".join(declared) or "none"
        raise MethodError(
            f"method '{method}' has no parameter '{unknown[0]}'", hint=f"its parameters: {known}"
        )
    resolved: dict[str, Any] = {}
    for name, parameter in declared.items():
        value = values.get(name)
        value = parameter.default if value is None else value
        if value is None:
            raise MethodError(
                f"method '{method}' needs a value for '{name}'", hint=f"{parameter.range}"
            )
        try:
            if isinstance(parameter, PerModel):
                resolved[name] = parameter.check(value, models)
            else:
                resolved[name] = parameter.check(value)
        except MethodError as error:
            raise MethodError(f"method '{method}', {error.message}", hint=error.hint) from None
    return resolved


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _wrong(parameter: Parameter, value: Any) -> MethodError:
    return MethodError(f"parameter '{parameter.name}': got {value!r}, expected {parameter.range}")
