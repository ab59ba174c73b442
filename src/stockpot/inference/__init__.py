"""Use a model folder: predict, evaluate, export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stockpot.inference.predictor import Predictions, Predictor, load, predict
    from stockpot.inference.program import export
    from stockpot.inference.scores import Evaluation, evaluate

__all__ = ["Evaluation", "Predictions", "Predictor", "evaluate", "export", "load", "predict"]

_HOMES = {
    "Evaluation": "scores",
    "Predictions": "predictor",
    "Predictor": "predictor",
    "evaluate": "scores",
    "export": "program",
    "load": "predictor",
    "predict": "predictor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stockpot.inference' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"stockpot.inference.{_HOMES[name]}"), name)
