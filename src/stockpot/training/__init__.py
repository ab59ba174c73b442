"""One fine-tuning: linear probe, head first, full, moving average, SWAD, Model Stock on the way."""

from __future__ import annotations

from stockpot.backbones.model import Model
from stockpot.training.averaging import LossValley, RunningMean
from stockpot.training.feed import CachedFeed, Feed, RawFeed, build_feed
from stockpot.training.finetune import FineTuned, finetune
from stockpot.training.hyperparameters import HyperParameters, draw_hyperparameters
from stockpot.training.periodic import PeriodicStock, periodic_stock
from stockpot.training.predict import extract_features, predict
from stockpot.training.probe import linear_probe
from stockpot.training.trainer import Trainer

__all__ = [
    "CachedFeed",
    "Feed",
    "FineTuned",
    "HyperParameters",
    "LossValley",
    "Model",
    "PeriodicStock",
    "RawFeed",
    "RunningMean",
    "Trainer",
    "build_feed",
    "draw_hyperparameters",
    "extract_features",
    "finetune",
    "linear_probe",
    "periodic_stock",
    "predict",
]
