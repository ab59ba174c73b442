"""One fine-tuning: linear probe, head first, full, moving average, SWAD, Model Stock on the way."""

from __future__ import annotations

from stockpot.backbones.model import Model
from stockpot.training.feed import Feed, build_feed
from stockpot.training.finetune import FineTuned, finetune
from stockpot.training.hyperparameters import HyperParameters
from stockpot.training.periodic import PeriodicStock, periodic_stock
from stockpot.training.predict import extract_features, predict
from stockpot.training.probe import linear_probe
from stockpot.training.trainer import Trainer

__all__ = [
    "Feed",
    "FineTuned",
    "HyperParameters",
    "Model",
    "PeriodicStock",
    "Trainer",
    "build_feed",
    "extract_features",
    "finetune",
    "linear_probe",
    "periodic_stock",
    "predict",
]
