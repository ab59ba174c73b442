"""Contributions that can be added, scaled, subtracted and forgotten: models linear in their deltas.

Liu & Soatto, "Tangent Model Composition for Ensembling and Continual Fine-tuning", ICCV 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stockpot.extras import attribute

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
    "AverageComposer": "stockpot.tangent.composer",
    "Component": "stockpot.tangent.component",
    "Composed": "stockpot.tangent.composer",
    "Composer": "stockpot.tangent.composer",
    "TangentModel": "stockpot.tangent.linear",
    "train_component": "stockpot.tangent.train",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    return attribute(_HOMES, __name__, name)
