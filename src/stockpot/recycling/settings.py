"""From a recipe's ``training`` to the settings of one fine-tuning. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stockpot.recycling.recipe import Draw, Training
from stockpot.training.hyperparameters import HyperParameters

DRAWN = ("learning_rate", "weight_decay", "dropout")
STEPS = 300
_HEAD_ONLY = 0.04
"""Part of a run: 200 of 5,000 steps, ``lp_steps`` in the released code of Model Ratatouille."""


def settings(training: Training, steps: int) -> HyperParameters:
    """The settings of run 0, which takes the first of all values."""
    head_only = training.head_only_steps
    if head_only is None:
        head_only = round(_HEAD_ONLY * steps)
    head_only = min(head_only, steps)
    warmup = training.warmup_steps or 0
    if training.warmup_ratio is not None:
        warmup = round(training.warmup_ratio * (steps - head_only))
    return HyperParameters(
        steps=steps,
        batch_size=training.batch_size,
        head_only_steps=head_only,
        evaluate_every=training.evaluate_every,
        average_from=training.average_from,
        average_at=training.average_at,
        swad_converge=training.swad.converge,
        swad_tolerance=training.swad.tolerance,
        swad_ratio=training.swad.ratio,
        optimizer=training.optimizer,
        momentum=0.9 if training.momentum is None else training.momentum,
        nesterov=training.nesterov,
        schedule=training.schedule,
        warmup_steps=warmup,
        clip_norm=training.clip_norm,
        accumulate=training.accumulate,
        early_stopping=training.early_stopping,
        class_weights=class_weights(training),
        label_smoothing=training.label_smoothing,
        precision=training.precision,
        **{name: _first(getattr(training, name)) for name in DRAWN},
    )


def choices(training: Training) -> dict[str, Sequence[float] | Mapping[str, Any]]:
    """What runs other than run 0 draw from, see ``draw_hyperparameters``."""
    return {name: _choices(getattr(training, name)) for name in DRAWN}


def class_weights(training: Training) -> Any:
    """``balanced``, or weights by the class's name, or None."""
    if isinstance(training.class_weights, Mapping):
        return {str(name): weight for name, weight in training.class_weights.items()}
    return training.class_weights


def steps_of(training: Training, examples: Mapping[str, int]) -> int:
    """Steps of a run on domains of so many ``examples``.

    An epoch has as many steps as take all training examples once on the average over domains: each
    step takes ``batch_size`` times ``accumulate`` of every domain, however large it is.
    """
    if training.epochs is None:
        return training.steps or STEPS
    rows = 0
    for count in examples.values():
        count = min(count, training.limit_per_domain or count)
        rows += count - max(1, int(count * training.validation_fraction))
    taken = training.batch_size * training.accumulate * len(examples)
    return max(1, math.ceil(training.epochs * rows / taken))


def _first(value: Sequence[float] | float | Draw) -> float:
    if isinstance(value, Draw):
        return value.first
    return value[0] if isinstance(value, Sequence) else value


def _choices(value: Sequence[float] | float | Draw) -> Sequence[float] | Mapping[str, Any]:
    if isinstance(value, Draw):
        return value.space
    return value if isinstance(value, Sequence) else [value]
