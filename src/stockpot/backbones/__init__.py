"""Name -> feature extractor: timm, transformers, or any function; frozen lower blocks; heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stockpot.backbones.spec import BackboneSpec
from stockpot.extras import attribute

if TYPE_CHECKING:
    from stockpot.backbones.backbone import Backbone, load_backbone
    from stockpot.backbones.batchnorm import reestimate_batchnorm
    from stockpot.backbones.cut import Activations
    from stockpot.backbones.folder import load_model, save_folder
    from stockpot.backbones.model import Model

__all__ = [
    "Activations",
    "Backbone",
    "BackboneSpec",
    "Model",
    "load_backbone",
    "load_model",
    "reestimate_batchnorm",
    "save_folder",
]

_HOMES = {
    "Activations": "stockpot.backbones.cut",
    "Backbone": "stockpot.backbones.backbone",
    "Model": "stockpot.backbones.model",
    "load_backbone": "stockpot.backbones.backbone",
    "load_model": "stockpot.backbones.folder",
    "reestimate_batchnorm": "stockpot.backbones.batchnorm",
    "save_folder": "stockpot.backbones.folder",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used: a recipe is read without it."""
    return attribute(_HOMES, __name__, name)
