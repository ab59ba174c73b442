"""How a component is trained, as data; importing this needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from stockpot.declared import Declared

Loss = Literal["square", "cross_entropy"]


FAR = 100.0
"""Deltas of least squares are linear in kappa, so that far from the random head's own outputs
(about 1) its value makes no difference."""
_OF_ADAMW = (
    *("loss", "alpha", "learning_rate", "weight_decay", "norm_penalty"),
    *("schedule", "milestones", "augmentation"),
)


class TangentSettings(Declared):
    """Training of one component.

    The square loss of a linearised model is quadratic: by default conjugate gradients minimise it,
    which have no learning rate, and the shard's own validation rows say when to stop. A setting
    that only AdamW has makes it AdamW; its defaults are those of the paper's code for
    data-incremental learning (class-incremental: ``kappa`` 15).
    """

    solver: Literal["least_squares", "adamw"] = Field(
        "least_squares",
        description="conjugate gradients on the square loss, a step a pass; or AdamW, which is the "
        "default where one of its own settings is given",
    )
    loss: Loss = Field("square", description="rescaled square loss, or cross-entropy")
    kappa: float = Field(
        5.0,
        gt=0,
        description="target of the true class under the square loss (15 class-wise); least "
        "squares: 100, so that what the random head says by itself does not count",
    )
    alpha: float = Field(1.0, gt=0, description="weight of the true class's term")
    epochs: float = Field(50.0, gt=0, description="passes over the shard, at most")
    batch_size: int = Field(32, ge=1, description="examples per step")
    learning_rate: float = Field(1e-4, gt=0, lt=10, description="of AdamW")
    weight_decay: float = Field(0.0, ge=0, description="decoupled, pulls the delta to zero")
    norm_penalty: float = Field(
        1e-5, ge=0, description="times the Euclidean norm (not squared) of the delta"
    )
    schedule: Literal["step", "cosine", "constant"] = Field(
        "step", description="step: times 0.1 after each milestone; cosine: to zero"
    )
    milestones: tuple[float, ...] = Field(
        (0.5, 0.8), description="parts of the run after which the learning rate falls"
    )
    augmentation: bool = Field(False, description="of images: crop, flip, colour, grey")

    @model_validator(mode="before")
    @classmethod
    def _solver(cls, value: Any) -> Any:
        return cls.resolve(value) if isinstance(value, Mapping) else value

    @staticmethod
    def resolve(value: Mapping[str, Any]) -> dict[str, object]:
        """``value`` with the solver and the target that its keys ask for."""
        given = any(name in value for name in _OF_ADAMW)
        made = {"solver": "adamw" if given else "least_squares", **value}
        if made["solver"] == "least_squares":
            return {"kappa": FAR, **made}
        return made

    @model_validator(mode="after")
    def _fits(self) -> TangentSettings:
        for name in _OF_ADAMW:
            if self.solver == "least_squares" and getattr(self, name) != _default(name):
                raise ValueError(f"'solver: least_squares' has no use for '{name}'")
        return self

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step 0, 1, ... of ``steps``."""

        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        if self.schedule == "constant":
            return self.learning_rate
        passed = sum(step >= part * steps for part in self.milestones)
        return float(self.learning_rate * 0.1**passed)

    def steps(self, examples: int) -> int:
        """Optimizer steps for a shard of so many examples, at most."""

        passes = self.epochs if self.solver == "least_squares" else None
        return max(1, math.ceil(passes or self.epochs * examples / self.batch_size))


def _default(name: str) -> Any:
    return TangentSettings.model_fields[name].default
