"""Name -> feature extractor: timm, transformers, or any function; frozen lower blocks; heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stockpot.backbones.spec import BackboneSpec

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
    "Activations": "cut",
    "Backbone": "backbone",
    "Model": "model",
    "load_backbone": "backbone",
    "load_model": "folder",
    "reestimate_batchnorm": "batchnorm",
    "save_folder": "folder",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used: a recipe is read without it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'stockpot.backbones' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"stockpot.backbones.{_HOMES[name]}"), name)
