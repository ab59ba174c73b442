"""How good is a model? One contract: weights and rows in, a score for every row out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.extras import lazily

if TYPE_CHECKING:
    from stockpot.evaluators.command import CommandEvaluator
    from stockpot.evaluators.contract import Evaluator
    from stockpot.evaluators.function import FunctionEvaluator
    from stockpot.evaluators.spec import load_evaluator
    from stockpot.evaluators.store import ScoreStore
    from stockpot.evaluators.task import TaskEvaluator

__all__ = [
    "CommandEvaluator",
    "Evaluator",
    "FunctionEvaluator",
    "ScoreStore",
    "TaskEvaluator",
    "load_evaluator",
]

__getattr__ = lazily(
    __name__,
    {
        "command": "CommandEvaluator",
        "contract": "Evaluator",
        "function": "FunctionEvaluator",
        "spec": "load_evaluator",
        "store": "ScoreStore",
        "task": "TaskEvaluator",
    },
)
