"""Anybody's trainer: what fine-tunes is a program or a function, the rest is stockpot's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.extras import lazily

if TYPE_CHECKING:
    from stockpot.trainers.adapters import transformers, trl
    from stockpot.trainers.contract import CommandTrainer, FunctionTrainer, OutsideTrainer
    from stockpot.trainers.recipe import TrainerRecipe
    from stockpot.trainers.run import plan_trainings, recycle_with

__all__ = [
    "CommandTrainer",
    "FunctionTrainer",
    "OutsideTrainer",
    "TrainerRecipe",
    "plan_trainings",
    "recycle_with",
    "transformers",
    "trl",
]

__getattr__ = lazily(
    __name__,
    {
        "adapters": "transformers trl",
        "contract": "CommandTrainer FunctionTrainer OutsideTrainer",
        "recipe": "TrainerRecipe",
        "run": "plan_trainings recycle_with",
    },
)
