"""Contributions that can be added, scaled, subtracted and forgotten: models linear in their deltas.

Liu & Soatto, "Tangent Model Composition for Ensembling and Continual Fine-tuning", ICCV 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stockpot.tangent.component import Component
    from stockpot.tangent.composer import AverageComposer, Composed, Composer
    from stockpot.tangent.linear import TangentModel
    from stockpot.tangent.train import train_component

__all__ = [
    "AverageComposer",
    "Component",
    "Composed",
    "Composer",
    "TangentModel",
    "train_component",
]

_HOMES = {
    "AverageComposer": "composer",
    "Component": "component",
    "Composed": "composer",
    "Composer": "composer",
    "TangentModel": "linear",
    "train_component": "train",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'stockpot.tangent' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"stockpot.tangent.{_HOMES[name]}"), name)
