"""What is averaged, before it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stockpot.averaging.shapes import coefficients
from stockpot.averaging.steps import RunCheckpoint
from stockpot.merging.job import Spec


@dataclass(frozen=True)
class AveragePlan:
    """Which checkpoints, the oldest first, in which shape. ``notes``: what to know.

    Raises ``InputError`` for a shape that is none.
    """

    shape: str
    checkpoints: tuple[RunCheckpoint, ...]
    notes: tuple[str, ...] = ()
    weights: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        weights = tuple(coefficients(self.shape, len(self.checkpoints)))
        object.__setattr__(self, "weights", weights)

    def spec(self, dtype: str | None = None, *, force: bool = False) -> Spec:
        """The merge that makes it. The newest comes first: whole numbers, config and tokenizer are
        its own."""
        models: list[Any] = [one.source for one in reversed(self.checkpoints)]
        weights = {"weights": list(reversed(self.weights))}
        return Spec(models, parameters=weights, dtype=dtype, force=force)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {
            "shape": self.shape,
            "checkpoints": [
                {"name": one.name, "step": one.step, "weight": weight}
                for one, weight in zip(self.checkpoints, self.weights, strict=True)
            ],
            "notes": list(self.notes),
        }
