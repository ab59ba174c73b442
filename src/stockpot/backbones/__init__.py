"""Name -> feature extractor: timm, transformers, or any function; frozen lower blocks; heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stockpot.backbones.spec import BackboneSpec
from stockpot.extras import lazily

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

__getattr__ = lazily(
    __name__,
    {
        "backbone": "Backbone load_backbone",
        "batchnorm": "reestimate_batchnorm",
        "cut": "Activations",
        "folder": "load_model save_folder",
        "model": "Model",
    },
)
