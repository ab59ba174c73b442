"""Averages of the checkpoints of one run: whose, with which weights, and while it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.extras import lazily

if TYPE_CHECKING:
    from stockpot.averaging.callbacks import AverageCallback
    from stockpot.averaging.lightning import LightningAverage
    from stockpot.averaging.live import ModuleAverage, RunningMean
    from stockpot.averaging.run import Averaged, average, plan_average
    from stockpot.averaging.shapes import (
        coefficients,
        decay_coefficients,
        ema_coefficients,
        valley_coefficients,
    )
    from stockpot.averaging.steps import RunCheckpoint, find_checkpoints

__all__ = [
    "AverageCallback",
    "Averaged",
    "LightningAverage",
    "ModuleAverage",
    "RunCheckpoint",
    "RunningMean",
    "average",
    "coefficients",
    "decay_coefficients",
    "ema_coefficients",
    "find_checkpoints",
    "plan_average",
    "valley_coefficients",
]

__getattr__ = lazily(
    __name__,
    {
        "callbacks": "AverageCallback",
        "lightning": "LightningAverage",
        "live": "ModuleAverage RunningMean",
        "run": "Averaged average plan_average",
        "shapes": "coefficients decay_coefficients ema_coefficients valley_coefficients",
        "steps": "RunCheckpoint find_checkpoints",
    },
)
