"""How much may be spent on evaluations: so many of them, or so long."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from stockpot.errors import InputError
from stockpot.evaluators.spec import duration

_COUNT = re.compile(r"(\d+)(?:\s*evaluations?)?")


class BudgetSpentError(Exception):
    """Nothing more can be evaluated; caught where a stage of the search ends."""


@dataclass
class Budget:
    """``evaluations`` of all choosing rows, or ``seconds`` since ``started``, or both; what was
    spent of it.

    A part of the rows counts as that part of an evaluation. What an earlier run measured counts as
    it did then (``known_seconds``), so that a run that goes on decides as one that was never
    interrupted. ``reserve``: evaluations that time is kept for.
    """

    evaluations: float | None = None
    seconds: float | None = None
    spent: float = 0.0
    spent_seconds: float = 0.0
    known_seconds: float = 0.0
    reserve: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def parse(cls, value: str | int | None, models: int) -> Budget:
        """From ``60``, ``"60 evaluations"`` or ``"2h"``; by default 5 a model, 30 at least.

        Raises ``InputError``.
        """
        if value is None:
            return cls(evaluations=max(30, 5 * models))
        text = str(value).strip()
        if (count := _COUNT.fullmatch(text)) is not None:
            budget = cls(evaluations=int(count[1]))
            if int(count[1]) < models + 1:
                raise InputError(
                    f"a budget of {count[1]} evaluations is too small for {models} models",
                    hint=f"each is evaluated, and their mean: {models + 1} at least",
                )
            return budget
        try:
            if text[-1:].isdigit():
                raise ValueError(f"evaluations are whole numbers, seconds need a unit: '{text}'")
            return cls(seconds=duration(text))
        except ValueError as error:
            raise InputError(
                f"budget: {error}", hint="such as 60, '60 evaluations', 90s or 2h"
            ) from error

    def elapsed(self) -> float:
        """Seconds since the start, and those that an earlier run took for what is used of it."""
        return time.monotonic() - self.started + self.known_seconds

    def is_over(self) -> bool:
        """Whether the time has ended."""
        return self.seconds is not None and self.elapsed() >= self.seconds

    def left(self) -> float:
        """About how many evaluations can still be made."""
        number = float("inf") if self.evaluations is None else self.evaluations - self.spent
        if self.seconds is None:
            return number
        each = self.spent_seconds / self.spent if self.spent else 0.0
        rest = self.seconds - self.elapsed() - self.reserve * each
        return min(number, 0.0 if rest <= 0 else rest / each if each else float("inf"))

    def check(self) -> None:
        """Raises ``BudgetSpentError`` where not one evaluation is left."""
        if self.left() < 1.0 - 1e-9:
            raise BudgetSpentError

    def add(self, share: float, seconds: float, *, known: bool = False) -> None:
        """Book an evaluation of ``share`` of the rows; ``known``: an earlier run made it."""
        self.spent += share
        self.spent_seconds += seconds
        self.known_seconds += seconds if known else 0.0
