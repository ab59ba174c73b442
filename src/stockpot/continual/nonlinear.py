"""Non-linear fine-tuning under the loop of a tangent component: same rows, steps and schedule."""

from __future__ import annotations

import numpy as np
import torch

from stockpot.backbones import Model
from stockpot.backbones.backbone import State
from stockpot.errors import StockpotError
from stockpot.tangent.losses import loss_of
from stockpot.tangent.settings import TangentSettings
from stockpot.training import Feed
from stockpot.training.device import best_device
from stockpot.training.sampler import BalancedSampler


def finetune(
    model: Model,
    feed: Feed,
    labels: np.ndarray,
    rows: np.ndarray,
    settings: TangentSettings,
    *,
    task: str,
    seed: int,
    device: str | None = None,
) -> State:
    """Train ``model``, as it comes, on ``rows``; returns its trained tensors.

    AdamW with the settings' schedule and loss; the rows come in the order in which a tangent
    component of the same ``task`` and ``seed`` sees them. Its ``norm_penalty`` is not used.
    Raises ``StockpotError`` when training diverges.
    """
    place = best_device(device)
    model.to(place).train()
    feed.to(place)
    sampler = BalancedSampler({task: rows}, settings.batch_size, seed)
    optimizer = torch.optim.AdamW(
        model.trained_parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    steps = settings.steps(len(rows))
    for step in range(steps):
        chosen = sampler.rows(step)
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step, steps)
        target = torch.from_numpy(labels[chosen].astype(np.int64)).to(place)
        loss = loss_of(model(feed.batch(chosen)), target, settings)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if not bool(torch.isfinite(loss.detach())):
            raise StockpotError(
                f"'{task}': the loss is not finite at step {step + 1}",
                hint="lower nonlinear.learning_rate",
            )
        optimizer.step()
    return model.state()
