"""BatchNorm: keep the base's running statistics, or estimate them anew."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from stockpot.backbones.model import Model


def batchnorm_layers(module: nn.Module) -> dict[str, _BatchNorm]:
    """All BatchNorm layers with running statistics, by name (timm's own variants included)."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }


def freeze_statistics(module: nn.Module) -> None:
    """BatchNorm layers into evaluation mode; their scale and shift still train, as in DomainBed."""
    for layer in batchnorm_layers(module).values():
        layer.eval()


@torch.no_grad()
def reestimate_batchnorm(model: Model, batches: Iterable[Any]) -> int:
    """Replace running statistics by those of ``batches``, weighted alike; returns their number.

    Averaged weights have other activations than the statistics of any one member, and that alone
    can ruin an average (Izmailov et al. 2018, section 3.2). Dropout stays off meanwhile. Layers
    whose statistics are frozen, and all below a cut, keep the base's.
    """
    changing = set(model.backbone.trainable_names())
    layers = [
        layer
        for name, layer in batchnorm_layers(model.backbone.network).items()
        if f"{name}.running_mean" in changing
    ]
    if not layers:
        return 0
    modes = {module: module.training for module in model.modules()}
    momenta = {layer: layer.momentum for layer in layers}
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative mean over all batches
        layer.training = True
    count = 0
    for batch in batches:
        model(batch)
        count += 1
    for layer in layers:
        layer.momentum = momenta[layer]
    for module, mode in modes.items():
        module.training = mode
    return count
