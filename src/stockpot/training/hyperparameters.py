"""What one fine-tuning is told, and how random draws of it are made reproducible."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from stockpot.errors import InputError
from stockpot.tasks import named_generator


@dataclass(frozen=True)
class HyperParameters:
    """Settings of one fine-tuning; the defaults are DomainBed's for ResNet-50, with fewer steps.

    ``batch_size`` is per training domain and step. ``head_only_steps``: during the first of the
    ``steps`` only the head trains, then the optimizer is made anew over everything
    (ModelRatatouille, ``lp_steps``). ``dropout`` acts between featurizer and head.

    ``average_from``: part of the run, in [0, 1], after which the moving average takes in every
    iterate (2110.10832: step 100 of 5,000). ``average_at``: the average is that of the evaluation
    at which it validates best, which costs a second validation each, or that of the end.
    ``swad_*``: see :class:`~stockpot.training.averaging.LossValley`.

    ``momentum`` and ``nesterov`` are of ``sgd`` alone. ``schedule`` and ``warmup_steps``: see
    :func:`~stockpot.training.optimizer.learning_rate`. ``clip_norm``: largest norm of the whole
    gradient. ``accumulate``: a step takes so many batches, whose gradients add up to that of one
    batch as large. ``early_stopping``: end the run after so many evaluations in a row without a new
    best. ``class_weights`` and ``label_smoothing``: see
    :class:`~stockpot.training.objective.Objective`.
    """

    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    dropout: float = 0.0
    batch_size: int = 32
    steps: int = 300
    head_only_steps: int = 0
    evaluate_every: int = 50
    average_from: float = 0.02
    average_at: Literal["best", "end"] = "best"
    swad_converge: int = 3
    swad_tolerance: int = 6
    swad_ratio: float = 0.3
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: float = 0.9
    nesterov: bool = False
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    clip_norm: float | None = None
    accumulate: int = 1
    early_stopping: int | None = None
    class_weights: Literal["balanced"] | Mapping[str, float] | None = None
    label_smoothing: float = 0.0
    precision: Literal["no", "bf16", "fp16"] = "no"

    def __post_init__(self) -> None:
        ranges = {
            "learning_rate": (0 < self.learning_rate < 10, "between 0 and 10"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "dropout": (0 <= self.dropout < 1, "in [0, 1)"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "steps": (self.steps >= 1, "1 or more"),
            "head_only_steps": (0 <= self.head_only_steps <= self.steps, "between 0 and steps"),
            "evaluate_every": (self.evaluate_every >= 1, "1 or more"),
            "average_from": (0 <= self.average_from <= 1, "in [0, 1]"),
            "average_at": (self.average_at in ("best", "end"), "best or end"),
            "swad_converge": (self.swad_converge >= 1, "1 or more"),
            "swad_tolerance": (self.swad_tolerance >= 1, "1 or more"),
            "swad_ratio": (self.swad_ratio >= 0, "0 or more"),
            "optimizer": (self.optimizer in ("adam", "adamw", "sgd"), "adam, adamw or sgd"),
            "momentum": (0 <= self.momentum < 1, "in [0, 1)"),
            "nesterov": (
                not self.nesterov or (self.optimizer == "sgd" and self.momentum > 0),
                "false but for sgd with momentum",
            ),
            "schedule": (
                self.schedule in ("constant", "linear", "cosine"),
                "constant, linear or cosine",
            ),
            "warmup_steps": (
                0 <= self.warmup_steps <= self.steps - self.head_only_steps,
                "between 0 and the steps in which everything trains",
            ),
            "clip_norm": (self.clip_norm is None or 0 < self.clip_norm < float("inf"), "above 0"),
            "accumulate": (self.accumulate >= 1, "1 or more"),
            "early_stopping": (
                self.early_stopping is None or self.early_stopping >= 1,
                "1 or more evaluations",
            ),
            "class_weights": (_are_weights(self.class_weights), "balanced or weights above 0"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "precision": (self.precision in ("no", "bf16", "fp16"), "no, bf16 or fp16"),
        }
        for name, (good, expected) in ranges.items():
            if not good:
                raise InputError(f"{name}: got {getattr(self, name)}, expected {expected}")

    def replace(self, **changes: Any) -> HyperParameters:
        """The same with some fields changed."""
        return dataclasses.replace(self, **changes)


def draw_hyperparameters(
    space: Mapping[str, Sequence[Any] | Mapping[str, float]],
    *,
    name: str,
    seed: int,
    index: int,
    defaults: HyperParameters | None = None,
) -> HyperParameters:
    """Draw number ``index`` of a search; index 0 is ``defaults`` itself, as in DomainBed.

    ``space`` gives for each field a list of choices, or ``{"low", "high"}`` for a uniform draw,
    with ``"log": True`` uniform in the logarithm. A field's value depends on (``seed``, ``name``,
    ``index``, field) alone: adding a field to the space leaves the draws of the others as they are.
    Raises ``InputError`` for an unknown field or a value out of range.
    """
    defaults = defaults or HyperParameters()
    known = {field.name for field in fields(HyperParameters)}
    for field in space:
        if field not in known:
            raise InputError(
                f"unknown hyper-parameter '{field}'; known: {', '.join(sorted(known))}"
            )
    if index == 0:
        return defaults
    return defaults.replace(**draw_values(space, name=name, seed=seed, index=index))


def draw_values(
    space: Mapping[str, Sequence[Any] | Mapping[str, Any]], *, name: str, seed: int, index: int
) -> dict[str, Any]:
    """A value for every field of ``space``, see :func:`draw_hyperparameters`."""
    drawn: dict[str, Any] = {}
    for field, choices in space.items():
        generator = named_generator(seed, "hyperparameters", name, index, field)
        if isinstance(choices, Mapping):
            drawn[field] = _draw_number(choices, generator)
        else:
            drawn[field] = choices[int(generator.integers(len(choices)))]
    return drawn


def _are_weights(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(0 < weight < float("inf") for weight in value.values())
    return value in (None, "balanced")


def _draw_number(limits: Mapping[str, Any], generator: Any) -> float:
    low, high = float(limits["low"]), float(limits["high"])
    where = float(generator.random())
    if limits.get("log"):
        return float(low * (high / low) ** where)
    return low + (high - low) * where
