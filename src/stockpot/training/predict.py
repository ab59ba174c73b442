"""Features and predictions for rows of a feed, in the rows' order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stockpot.backbones.backbone import Backbone
from stockpot.backbones.buffers import unchanged_buffers
from stockpot.backbones.model import Model
from stockpot.training.device import best_device
from stockpot.training.feed import Feed

BATCH = 256


def predict(
    model: Model,
    feed: Feed,
    rows: np.ndarray,
    batch_size: int = BATCH,
    *,
    device: str | None = None,
) -> np.ndarray:
    """Logits or values, float32 (N, n_outputs), without dropout and augmentation.

    The model moves to the GPU when there is one, unless ``device`` says "cpu". Its buffers are left
    as they were.
    """
    training = model.training
    place = best_device(device)
    model.to(place).eval()
    try:
        with unchanged_buffers(model):
            return map_rows(model, feed, rows, place, batch_size)
    finally:
        model.train(training)


def extract_features(
    backbone: Backbone,
    feed: Feed,
    rows: np.ndarray,
) -> np.ndarray:
    """What the head sees, float32 (N, D), with the backbone's weights as they are."""
    device = best_device(None)
    model = Model(backbone, 1).to(device)
    model.eval()
    with unchanged_buffers(model):
        return map_rows(model.features, feed, rows, device)


@torch.no_grad()
def map_rows(
    function: Callable[[Any], Tensor],
    feed: Feed,
    rows: np.ndarray,
    device: torch.device,
    batch_size: int = BATCH,
) -> np.ndarray:
    """``function`` of the batches of ``rows``, float32 (N, ...), in the order of ``rows``."""
    rows = np.asarray(rows)
    feed.to(device)
    # Texts of similar length go together, so that little padding is computed.
    order = np.arange(len(rows))
    if feed.lengths is not None:
        order = np.argsort(feed.lengths[rows], kind="stable")
    parts = [
        function(feed.batch(rows[order[start : start + batch_size]])).float().cpu().numpy()
        for start in range(0, len(rows), batch_size)
    ]
    if not parts:
        raise ValueError("no rows to predict")
    found = np.concatenate(parts)
    result = np.empty_like(found)
    result[order] = found
    return result
