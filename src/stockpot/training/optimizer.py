"""The optimizer of a run, and its learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from stockpot.training.hyperparameters import HyperParameters


def make_optimizer(hp: HyperParameters, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Torch's own optimizer of that name, over ``parameters``."""
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
    }
    own: dict[str, Any] = {}
    if hp.optimizer == "sgd":
        own = {"momentum": hp.momentum, "nesterov": hp.nesterov}
    settings = {"lr": hp.learning_rate, "weight_decay": hp.weight_decay, "fused": True, **own}
    return kinds[hp.optimizer](parameters, **settings)


def learning_rate(hp: HyperParameters, step: int) -> float:
    """The rate of step 0, 1, ... of a run.

    Head-only steps have the whole rate. Over the others it rises linearly from 0 during
    ``warmup_steps``, and then falls to 0 at the end along a line or half a cosine, or stays: the
    closed forms of the schedulers of torch and transformers. It depends on the step alone, so a run
    that was stopped and goes on needs no state of a scheduler.
    """
    if step < hp.head_only_steps:
        return hp.learning_rate
    done, total = step - hp.head_only_steps, hp.steps - hp.head_only_steps
    if done < hp.warmup_steps:
        return hp.learning_rate * done / hp.warmup_steps
    if hp.schedule == "constant":
        return hp.learning_rate
    past = (done - hp.warmup_steps) / max(1, total - hp.warmup_steps)
    if hp.schedule == "linear":
        return hp.learning_rate * (1 - past)
    return hp.learning_rate * (1 + math.cos(math.pi * past)) / 2
