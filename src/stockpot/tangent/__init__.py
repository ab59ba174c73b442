"""Contributions that can be added, scaled, subtracted and forgotten: models linear in their deltas.

Liu & Soatto, "Tangent Model Composition for Ensembling and Continual Fine-tuning", ICCV 2023.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stockpot.extras import attribute

if TYPE_CHECKING:
    from stockpot.tangent.component import Component
    from stockpot.tangent.composer import AverageComposer, Composed, Composer
    from stockpot.tangent.feeds import TensorFeed, cache_trunk
    from stockpot.tangent.fitting import train_component
    from stockpot.tangent.forgetting import Certificate, certify
    from stockpot.tangent.forgetting.certificate import AuditData
    from stockpot.tangent.forgetting.run import forget, verify
    from stockpot.tangent.head import draw_head, save_head
    from stockpot.tangent.linear import TangentModel
    from stockpot.tangent.run import check, plan_recipe, train
    from stockpot.tangent.statistics import FeatureMap, StatisticsComposer
    from stockpot.tangent.summing import aggregate, from_arrays, to_arrays
    from stockpot.tangent.verbs import CompositionScores, compose, evaluate, show

_HOMES = {
    "AuditData": "stockpot.tangent.forgetting.certificate",
    "AverageComposer": "stockpot.tangent.composer",
    "Certificate": "stockpot.tangent.forgetting",
    "Component": "stockpot.tangent.component",
    "Composed": "stockpot.tangent.composer",
    "Composer": "stockpot.tangent.composer",
    "CompositionScores": "stockpot.tangent.verbs",
    "FeatureMap": "stockpot.tangent.statistics",
    "StatisticsComposer": "stockpot.tangent.statistics",
    "TangentModel": "stockpot.tangent.linear",
    "TensorFeed": "stockpot.tangent.feeds",
    "aggregate": "stockpot.tangent.summing",
    "cache_trunk": "stockpot.tangent.feeds",
    "certify": "stockpot.tangent.forgetting",
    "check": "stockpot.tangent.run",
    "compose": "stockpot.tangent.verbs",
    "draw_head": "stockpot.tangent.head",
    "evaluate": "stockpot.tangent.verbs",
    "forget": "stockpot.tangent.forgetting.run",
    "from_arrays": "stockpot.tangent.summing",
    "plan_recipe": "stockpot.tangent.run",
    "save_head": "stockpot.tangent.head",
    "show": "stockpot.tangent.verbs",
    "to_arrays": "stockpot.tangent.summing",
    "train": "stockpot.tangent.run",
    "train_component": "stockpot.tangent.fitting",
    "verify": "stockpot.tangent.forgetting.run",
}

__all__ = [
    "AuditData",
    "AverageComposer",
    "Certificate",
    "Component",
    "Composed",
    "Composer",
    "CompositionScores",
    "FeatureMap",
    "StatisticsComposer",
    "TangentModel",
    "TensorFeed",
    "aggregate",
    "cache_trunk",
    "certify",
    "check",
    "compose",
    "draw_head",
    "evaluate",
    "forget",
    "from_arrays",
    "plan_recipe",
    "save_head",
    "show",
    "to_arrays",
    "train",
    "train_component",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    return attribute(_HOMES, __name__, name)
