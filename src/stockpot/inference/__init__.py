"""Use a model folder: predict, evaluate, export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.extras import lazily

if TYPE_CHECKING:
    from stockpot.inference.predictor import Predictions, Predictor, load, predict
    from stockpot.inference.program import export
    from stockpot.inference.scores import Evaluation, evaluate

__all__ = [
    "Evaluation",
    "Predictions",
    "Predictor",
    "evaluate",
    "export",
    "load",
    "predict",
]

__getattr__ = lazily(
    __name__,
    {
        "predictor": "Predictions Predictor load predict",
        "program": "export",
        "scores": "Evaluation evaluate",
    },
)
